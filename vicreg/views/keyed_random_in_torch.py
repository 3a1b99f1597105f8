"""The numbers of `keyed_random`, drawn by torch where the images lie: the same bits."""

from __future__ import annotations

import torch
from torch import Tensor

from vicreg.views.keyed_random import MASK, MULTIPLY_1, MULTIPLY_2, STEP, mix_int


def bits_in_torch(seed: int, epoch: Tensor, samples: Tensor, view: int, draws: Tensor) -> Tensor:
    """The 64 bits of `bits` for each draw and sample, as int64 (D, B) where `samples` (B,) are.

    epoch (), draws (D,): int64 there too, so that nothing has to be sent, and a captured graph can be told others.
    """
    state = epoch.add(1).mul_(_signed(STEP)).add_(_signed(mix_int((seed + 1) * STEP & MASK)))
    state = _mix_(state).add_(_signed((view + 1) * STEP))
    state = _mix_(draws.add(1).mul_(_signed(STEP)).add_(_mix_(state)))
    return _mix_(samples.add(1).mul_(_signed(STEP)) + state.view(-1, 1))


def uniform_in_torch(seed: int, epoch: Tensor, samples: Tensor, view: int, draws: Tensor) -> Tensor:
    """The numbers of `uniform` for each draw and sample, float64 (D, B); arguments as in `bits_in_torch`."""
    return _shifted(bits_in_torch(seed, epoch, samples, view, draws), 40).to(torch.float64).mul_(2**-24)


def _signed(value: int) -> int:
    """The number of the same 64 bits that torch has: it knows no unsigned ones, and wraps alike."""
    value &= MASK
    return value - (1 << 64) if value >> 63 else value


def _mix_(values: Tensor) -> Tensor:
    """The same mixing of int64 values, in place."""
    for shift, factor in ((30, MULTIPLY_1), (27, MULTIPLY_2)):
        values.bitwise_xor_(_shifted(values, shift)).mul_(_signed(factor))
    return values.bitwise_xor_(_shifted(values, 31))


def _shifted(values: Tensor, by: int) -> Tensor:
    """To the right, zeros coming in: torch's own shift repeats the sign."""
    return (values >> by).bitwise_and_((1 << 64 - by) - 1)
