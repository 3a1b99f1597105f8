"""Random numbers that are functions, not state: equal (seed, epoch, sample, view, draw) give equal numbers.

Order and augmentation are drawn from here, so that a run can stop anywhere and go on anywhere, on any number of ranks
and threads, and see the same samples with the same augmentations. Pure integer arithmetic: the numbers depend neither
on the generators of numpy and torch, nor on their versions or on the machine. They are drawn on the CPU as small arrays
and shipped to where they are used, or, with the same bits, by torch where the images lie.

Each key is folded into 64 bits of state by the output function of splitmix64 (Steele, Lea and Flood, "Fast splittable
pseudorandom number generators", 2014; the constants are Stafford's variant 13), which flips every output bit with
probability near one half when any input bit changes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:  # options are read without torch, and words of captions are asked for there
    from torch import Tensor

_MASK = (1 << 64) - 1
_STEP = 0x9E3779B97F4A7C15  # 2**64 over the golden ratio, odd: neighbouring keys become far apart
_MULTIPLY_1 = 0xBF58476D1CE4E5B9
_MULTIPLY_2 = 0x94D049BB133111EB

ORDER_VIEW = 0xFFFF_FFFF
"""The `view` key under which the order of an epoch is drawn: no view of an image has this number."""


def bits(seed: int, epoch: int, samples: NDArray[np.int64], view: int, draw: int) -> NDArray[np.uint64]:
    """64 random bits for each sample (B,), a function of the five keys and nothing else."""
    state = 0
    for key in (seed, epoch, view, draw):
        state = _mix_int((state + (key + 1) * _STEP) & _MASK)
    mixed = np.array(samples, dtype=np.int64).view(
        np.uint64
    )  # a copy, mixed in place: a million keys are 8 MB each time
    mixed += np.uint64(1)
    mixed *= np.uint64(_STEP)  # arrays wrap silently at 64 bits
    mixed += np.uint64(state)
    mixed ^= mixed >> np.uint64(30)
    mixed *= np.uint64(_MULTIPLY_1)
    mixed ^= mixed >> np.uint64(27)
    mixed *= np.uint64(_MULTIPLY_2)
    mixed ^= mixed >> np.uint64(31)
    return mixed


def uniform(seed: int, epoch: int, samples: NDArray[np.int64], view: int, draw: int) -> NDArray[np.float32]:
    """Uniform numbers in [0, 1) for each sample (B,), multiples of 2**-24 (every one exact in float32)."""
    high = bits(seed, epoch, samples, view, draw) >> np.uint64(40)
    return high.astype(np.float32) * np.float32(2**-24)


def bits_in_torch(seed: int, epoch: Tensor, samples: Tensor, view: int, draws: Tensor) -> Tensor:
    """The 64 bits of `bits` for each draw and sample, as int64 (D, B) where `samples` (B,) are.

    epoch (), draws (D,): int64 there too, so that nothing has to be sent, and a captured graph can be told others.
    """
    state = epoch.add(1).mul_(_signed(_STEP)).add_(_signed(_mix_int((seed + 1) * _STEP & _MASK)))
    state = _mix_(state).add_(_signed((view + 1) * _STEP))
    state = _mix_(draws.add(1).mul_(_signed(_STEP)).add_(_mix_(state)))
    return _mix_(samples.add(1).mul_(_signed(_STEP)) + state.view(-1, 1))


def uniform_in_torch(seed: int, epoch: Tensor, samples: Tensor, view: int, draws: Tensor) -> Tensor:
    """The numbers of `uniform` for each draw and sample, float64 (D, B); arguments as in `bits_in_torch`."""
    return _shifted(bits_in_torch(seed, epoch, samples, view, draws), 40).double().mul_(2**-24)


def permutation(num: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """A random permutation of 0..num-1: the positions sorted by 64 random bits each (equal bits keep their order)."""
    keys = bits(seed, epoch, np.arange(num, dtype=np.int64), ORDER_VIEW, 0)
    return np.argsort(keys, kind="stable").astype(np.int64, copy=False)


def _mix_int(value: int) -> int:
    """The same mixing as in `bits`, for one Python integer below 2**64."""
    value = ((value ^ (value >> 30)) * _MULTIPLY_1) & _MASK
    value = ((value ^ (value >> 27)) * _MULTIPLY_2) & _MASK
    return value ^ (value >> 31)


def _signed(value: int) -> int:
    """The number of the same 64 bits that torch has: it knows no unsigned ones, and wraps alike."""
    value &= _MASK
    return value - (1 << 64) if value >> 63 else value


def _mix_(values: Tensor) -> Tensor:
    """The same mixing of int64 values, in place."""
    for shift, factor in ((30, _MULTIPLY_1), (27, _MULTIPLY_2)):
        values.bitwise_xor_(_shifted(values, shift)).mul_(_signed(factor))
    return values.bitwise_xor_(_shifted(values, 31))


def _shifted(values: Tensor, by: int) -> Tensor:
    """To the right, zeros coming in: torch's own shift repeats the sign."""
    return (values >> by).bitwise_and_((1 << 64 - by) - 1)
