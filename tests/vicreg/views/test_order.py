"""Order: exact cover, the same global batches on any number of ranks, and a start anywhere."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from vicreg.config import each_view, official_views
from vicreg.data.batches import Sampling
from vicreg.views.order import batches_per_epoch, block_size, blocks_order, epoch_order, rank_batch, shard

IMAGENET = 1_281_167


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


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 40), st.integers(1, 30), st.integers(0, 39), st.integers(1, 20), st.integers(0, 3))
def test_blocks_are_dealt_to_lanes(global_batch: int, num_batches: int, rest: int, block: int, seed: int) -> None:
    """Every position once; down a lane, samples of a block come together, each block in one piece or cut by an end."""
    num_samples = global_batch * num_batches + rest % global_batch
    order = blocks_order(num_samples, seed, 1, global_batch, block)
    assert np.array_equal(np.sort(order), np.arange(num_samples))
    assert order.dtype == np.int64
    lanes = order[: global_batch * num_batches].reshape(num_batches, global_batch).T // block
    num_parts = global_batch + int((lanes[:, 1:] != lanes[:, :-1]).sum())
    assert num_parts <= -(-num_samples // block) + 2 * global_batch
    assert np.array_equal(order, blocks_order(num_samples, seed, 1, global_batch, block))


def test_the_order_with_locality_never_changes() -> None:
    """Golden: a run goes on with the samples it began with."""
    expected = [0, 8, 20, 25, 1, 7, 21, 24, 2, 15, 23, 11, 14, 16, 22, 9, 13, 17, 18, 10, 12, 6, 19, 3, 4, 5]
    assert blocks_order(26, 0, 0, 4, 3).tolist() == expected


def test_blocks_differ_by_epoch_and_seed_and_leave_out_other_samples() -> None:
    orders = [blocks_order(1003, seed, epoch, 10, 8) for seed, epoch in [(0, 0), (0, 1), (1, 0)]]
    assert not np.array_equal(orders[0], orders[1])
    assert not np.array_equal(orders[0], orders[2])
    left_out = {tuple(blocks_order(1003, 0, epoch, 10, 8)[-3:].tolist()) for epoch in range(20)}
    assert len(left_out) > 10


def test_few_blocks_are_in_memory_at_a_time_and_read_evenly() -> None:
    """At ImageNet's size: one per lane; and what a batch newly asks for is the same throughout, but for the start."""
    global_batch, block = 2048, 32
    order = blocks_order(IMAGENET, 0, 0, global_batch, block)
    lanes = order[: IMAGENET // global_batch * global_batch].reshape(-1, global_batch) // block
    assert min(len(np.unique(batch)) for batch in lanes) > 0.99 * global_batch
    new = (lanes[1:] != lanes[:-1]).sum(axis=1)
    assert new.mean() == pytest.approx(global_batch / block, rel=0.15)
    assert new.max() <= 2 * global_batch / block


@pytest.mark.parametrize("global_batch", [64, 2048])
def test_batches_of_sorted_classes_are_as_varied_as_shuffled_ones(global_batch: int) -> None:
    """Entropy of the classes in a batch, of 1,000 classes that stand one after the other in the file."""

    def entropy(order: NDArray[np.int64]) -> float:
        labels = order[: num_samples // global_batch * global_batch].reshape(-1, global_batch) * 1000 // num_samples
        found = []
        for batch in labels[::20]:
            shares = np.bincount(batch) / global_batch
            found.append(-(shares[shares > 0] * np.log2(shares[shares > 0])).sum())
        return float(np.mean(found))

    num_samples = 256_000
    blocks = blocks_order(num_samples, 0, 0, global_batch, 16)
    assert entropy(blocks) > 0.99 * entropy(epoch_order(num_samples, 0, 0))
    assert entropy(np.arange(num_samples)) < 0.5 * entropy(blocks)


def test_blocks_shrink_where_there_are_few_batches() -> None:
    assert block_size(IMAGENET, 2048, 32) == 32
    assert block_size(1437, 128, 32) == 2
    assert block_size(8, 8, 32) == 1


@pytest.mark.parametrize("global_batch", [2048, 4096])
@pytest.mark.parametrize("block_samples", [0, 32])
def test_the_books_of_512_ranks(global_batch: int, block_samples: int) -> None:
    if block_samples:
        order = blocks_order(IMAGENET, 3, 5, global_batch, block_size(IMAGENET, global_batch, block_samples))
    else:
        order = epoch_order(IMAGENET, 3, 5)
    num_batches = batches_per_epoch(IMAGENET, global_batch)
    seen = np.zeros(IMAGENET, np.int64)
    for batch in range(num_batches):
        whole = order[batch * global_batch : (batch + 1) * global_batch]
        for world_size in (1, 8, 64, 512) if batch in (0, 1, num_batches - 1) else (512,):
            parts = [rank_batch(order, batch, global_batch, rank, world_size) for rank in range(world_size)]
            assert np.array_equal(np.concatenate(parts), whole)
        seen[np.concatenate(parts)] += 1
    assert seen.max() == 1
    assert seen.sum() == num_batches * global_batch


@pytest.mark.parametrize("block_samples", [0, 16])
def test_what_512_ranks_draw_is_the_global_order(block_samples: int) -> None:
    samples, global_batch = np.arange(12_345) * 3, 1024

    def places(rank: int, world_size: int, first_batch: int = 0) -> NDArray[np.int64]:
        sampling = Sampling(
            samples, each_view(official_views(), 32), 7, global_batch, rank, world_size, block_samples=block_samples
        )
        return sampling.places(2, first_batch)

    whole = places(0, 1)
    assert whole.shape == (12, global_batch)
    assert len(np.unique(whole)) == whole.size
    for world_size in (8, 64, 512):
        parts = [places(rank, world_size) for rank in range(world_size)]
        assert np.array_equal(np.concatenate(parts, axis=1), whole)
    assert np.array_equal(places(3, 8, first_batch=5), whole[5:, 3 * 128 : 4 * 128])


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 300), st.integers(1, 17))
def test_shards_cover_every_sample_once(num_samples: int, world_size: int) -> None:
    shards = [shard(num_samples, rank, world_size) for rank in range(world_size)]
    assert [sample for part in shards for sample in part] == list(range(num_samples))
    sizes = [len(part) for part in shards]
    assert max(sizes) - min(sizes) <= 1


def test_the_shards_of_512_ranks_cover_every_sample_once() -> None:
    for num_samples in (IMAGENET, 50_000, 511):
        seen = np.concatenate([np.asarray(shard(num_samples, rank, 512)) for rank in range(512)])
        assert np.array_equal(seen, np.arange(num_samples))


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
