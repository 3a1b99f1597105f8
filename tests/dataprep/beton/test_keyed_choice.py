"""The choices are the same for ever, and fair."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dataprep.beton.keyed_choice import chosen, keys, permutation


def reference_keys(num: int, seed: int) -> list[int]:
    """SplitMix64 as published, one number at a time."""
    state, mask, out = seed % 2**64, 2**64 - 1, []
    for _ in range(num):
        state = (state + 0x9E3779B97F4A7C15) & mask
        mixed = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & mask
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & mask
        out.append(mixed ^ (mixed >> 31))
    return out


def test_known_numbers() -> None:
    # First outputs of the published generator for seed 1234567.
    assert keys(3, 1234567).tolist() == [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert permutation(8, 0).tolist() == np.argsort(reference_keys(8, 0)).tolist()


@given(num=st.integers(0, 200), seed=st.integers(-(2**63), 2**63))
def test_keys_match_the_reference_and_orders_are_permutations(num: int, seed: int) -> None:
    assert keys(num, seed).tolist() == reference_keys(num, seed)
    assert sorted(permutation(num, seed).tolist()) == list(range(num))


def test_shares() -> None:
    assert not chosen(1000, 0.0, 3).any()
    assert chosen(1000, 1.0, 3).all()
    assert abs(chosen(100_000, 0.3, 3).mean() - 0.3) < 0.01
    np.testing.assert_array_equal(chosen(10, 0.5, 7), chosen(1000, 0.5, 7)[:10])
