"""Seeded choices that never change: orders and yes/no draws from SplitMix64, independent of numpy's generators.

numpy promises no stable streams across versions for its permutations; a beton's order, the digits split and the draw of
write mode `proportion` must be the same for ever. (The numbers are SplitMix64's: Steele, Lea, Flood, OOPSLA 2014.)
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_GOLDEN = 0x9E3779B97F4A7C15


def keys(num: int, seed: int) -> NDArray[np.uint64]:
    """The first `num` outputs of SplitMix64 whose state starts at `seed` (any integer, taken modulo 2^64)."""
    state = np.arange(1, num + 1, dtype=np.uint64) * np.uint64(_GOLDEN) + np.uint64(seed % 2**64)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


def permutation(num: int, seed: int) -> NDArray[np.int64]:
    """The numbers 0..num-1 in the order of their keys."""
    return np.argsort(keys(num, seed), kind="stable").astype(np.int64)


def chosen(num: int, share: float, seed: int) -> NDArray[np.bool_]:
    """Which of `num` items are drawn when each is drawn with probability `share`, from 0 to 1."""
    uniform = (keys(num, seed) >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return uniform < share
