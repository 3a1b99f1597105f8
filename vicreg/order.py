"""Which samples, in which order, on which rank, from which position: pure functions, no state to save.

The global order of an epoch is a function of (seed, epoch) alone; global batch b is its b-th slice; a rank takes its
contiguous part of each global batch. So a run may stop after any step and go on from there, also on another number of
ranks that divides the batch. Evaluations take contiguous shards that cover every sample exactly once.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vicreg.keyed_random import permutation


def epoch_order(num_samples: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """The order in which an epoch visits positions 0..num_samples-1 (num_samples,)."""
    return permutation(num_samples, seed, epoch)


def batches_per_epoch(num_samples: int, global_batch: int) -> int:
    """Number of full global batches in an epoch; the rest of that epoch's order is left out.

    ValueError: the samples do not fill one global batch.
    """
    if not 1 <= global_batch <= num_samples:
        raise ValueError(
            f"global_batch is {global_batch}, allowed: 1 to the number of samples, {num_samples} (all batches are full)"
        )
    return num_samples // global_batch


def rank_batch(
    order: NDArray[np.int64], batch: int, global_batch: int, rank: int, world_size: int
) -> NDArray[np.int64]:
    """The part of global batch number `batch` that belongs to `rank` (global_batch / world_size,).

    Putting the parts of all ranks one after another gives the global batch, whatever their number.
    ValueError: no such rank or batch, or the ranks do not divide the batch.
    """
    _require_rank(rank, world_size)
    if global_batch < 1 or global_batch % world_size:
        raise ValueError(f"global_batch is {global_batch}, allowed: multiples of the number of ranks, {world_size}")
    num_batches = batches_per_epoch(len(order), global_batch)
    if not 0 <= batch < num_batches:
        raise ValueError(f"batch is {batch}, allowed: 0 to {num_batches - 1}")
    size = global_batch // world_size
    start = batch * global_batch + rank * size
    return order[start : start + size]


def shard(num_samples: int, rank: int, world_size: int) -> range:
    """The contiguous samples `rank` evaluates; over all ranks each sample once, and sizes differ by at most one."""
    _require_rank(rank, world_size)
    return range(num_samples * rank // world_size, num_samples * (rank + 1) // world_size)


def _require_rank(rank: int, world_size: int) -> None:
    if world_size < 1:
        raise ValueError(f"world_size is {world_size}, allowed: 1 or more")
    if not 0 <= rank < world_size:
        raise ValueError(f"rank is {rank}, allowed: 0 to {world_size - 1}")
