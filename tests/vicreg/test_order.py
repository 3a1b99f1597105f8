"""Order: exact cover, the same global batches on any number of ranks, and a start anywhere."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vicreg.order import batches_per_epoch, epoch_order, rank_batch, shard


def test_an_epoch_visits_every_position_once_in_another_order_each_time() -> None:
    orders = [epoch_order(100, seed, epoch) for seed, epoch in [(0, 0), (0, 1), (1, 0)]]
    for order in orders:
        assert np.array_equal(np.sort(order), np.arange(100))
        assert order.dtype == np.int64
    assert not np.array_equal(orders[0], orders[1])
    assert not np.array_equal(orders[0], orders[2])
    assert np.array_equal(orders[0], epoch_order(100, 0, 0))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 8), st.integers(1, 6), st.integers(0, 40), st.integers(0, 3))
def test_the_ranks_parts_are_the_global_batch(world_size: int, per_rank: int, extra: int, seed: int) -> None:
    global_batch = world_size * per_rank
    order = epoch_order(2 * global_batch + extra, seed, 0)
    num_batches = batches_per_epoch(len(order), global_batch)
    visited = []
    for batch in range(num_batches):
        parts = [rank_batch(order, batch, global_batch, rank, world_size) for rank in range(world_size)]
        whole = np.concatenate(parts)
        assert np.array_equal(whole, rank_batch(order, batch, global_batch, 0, 1))
        visited.append(whole)
    assert np.array_equal(np.concatenate(visited), order[: num_batches * global_batch])
    assert len(order) - num_batches * global_batch < global_batch


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 300), st.integers(1, 17))
def test_shards_cover_every_sample_once(num_samples: int, world_size: int) -> None:
    shards = [shard(num_samples, rank, world_size) for rank in range(world_size)]
    assert [sample for part in shards for sample in part] == list(range(num_samples))
    sizes = [len(part) for part in shards]
    assert max(sizes) - min(sizes) <= 1


def test_many_ranks_are_covered_exactly() -> None:
    assert sum(len(shard(1_281_167, rank, 512)) for rank in range(512)) == 1_281_167


def test_bad_arguments_are_named() -> None:
    order = epoch_order(10, 0, 0)
    with pytest.raises(ValueError, match=r"global_batch is 11, allowed: 1 to the number of samples, 10"):
        batches_per_epoch(10, 11)
    with pytest.raises(ValueError, match=r"global_batch is 0"):
        batches_per_epoch(10, 0)
    with pytest.raises(ValueError, match=r"global_batch is 5, allowed: multiples of the number of ranks, 2"):
        rank_batch(order, 0, 5, 0, 2)
    with pytest.raises(ValueError, match=r"batch is 2, allowed: 0 to 1"):
        rank_batch(order, 2, 4, 0, 2)
    with pytest.raises(ValueError, match=r"rank is 2, allowed: 0 to 1"):
        rank_batch(order, 0, 4, 2, 2)
    with pytest.raises(ValueError, match=r"world_size is 0"):
        shard(10, 0, 0)
