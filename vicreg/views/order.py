"""Which samples, in which order, on which rank, from which position: pure functions, no state to save.

The global order of an epoch is a function of (seed, epoch), and of the global batch where it has locality; global batch
b is its b-th slice; a rank takes its contiguous part of each global batch. So a run may stop after any step and go on
from there, also on another number of ranks that divides the batch. Evaluations take contiguous shards that cover every
sample exactly once.

The order with locality deals: the positions are cut into blocks of neighbours, the blocks are shuffled and laid end to
end, and what that gives is cut into as many lanes of equal length as a global batch has samples. Batch b takes the b-th
sample of each lane, in the order of the lanes. A lane visits its blocks one after the other, each in random order, so
at any time one block per lane has to be in memory, on all ranks together global_batch x block_samples samples, and
whatever the number of ranks, each block is read by one rank once (blocks that a lane's end cuts, in two parts). No two
samples of a batch are from one block but by such a cut, so a batch is about as varied as one of the full shuffle
(`benchmarks/order.py`); fewer lanes with some shuffled blocks each need the same memory for less variety (0.97 of the
full shuffle's class entropy). What remains is that successive batches draw on the same blocks.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vicreg.views.keyed_random import bits, permutation

_BLOCK_VIEW = 0xFFFF_FFFE
"""The `view` key under which blocks are shuffled inside: no view of an image has this number."""


def epoch_order(num_samples: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """The order in which an epoch visits positions 0..num_samples-1 (num_samples,)."""
    return permutation(num_samples, seed, epoch)


def blocks_order(num_samples: int, seed: int, epoch: int, global_batch: int, block_samples: int) -> NDArray[np.int64]:
    """The order with locality of an epoch (num_samples,); block_samples as `block_size` gives it.

    Positions should be such that neighbours are neighbours in the file. ValueError: see `batches_per_epoch`.
    """
    num_batches = batches_per_epoch(num_samples, global_batch)
    starts = permutation(-(-num_samples // block_samples), seed, epoch) * block_samples
    sizes = np.minimum(block_samples, num_samples - starts)
    inside = np.arange(num_samples) - np.repeat(np.cumsum(sizes) - sizes, sizes)  # how far into its block
    laid_out = np.repeat(starts, sizes) + inside
    # Each lane is turned round, by golden fractions of its length, so that the halves of a block that a lane's end cuts
    # are far apart; and to begin one sample further into a block than the lane before, so that the lanes do not all
    # come to the end of their blocks, and ask for the next ones, in the same batch.
    lanes = np.arange(global_batch)
    far = lanes * 40_503 % 65_536 * num_batches // 65_536
    turn = far + (lanes - inside[lanes * num_batches] - far) % block_samples
    turned = (turn[:, None] + np.arange(num_batches)) % num_batches + (lanes * num_batches)[:, None]
    dealt = laid_out[turned]
    blocks = dealt // block_samples
    begins = np.ones_like(blocks, dtype=bool)
    begins[:, 1:] = blocks[:, 1:] != blocks[:, :-1]
    parts = np.cumsum(begins.ravel()).astype(np.uint64) << np.uint64(32)  # numbers of the blocks' parts, then chance
    chance = bits(seed, epoch, dealt.ravel(), _BLOCK_VIEW, 0) >> np.uint64(32)
    dealt = dealt.ravel()[np.argsort(parts | chance, kind="stable")].reshape(global_batch, num_batches)
    return np.concatenate([dealt.T.ravel(), laid_out[global_batch * num_batches :]])


def block_size(num_samples: int, global_batch: int, block_samples: int) -> int:
    """`block_samples`, or fewer where a lane would not hold four blocks: little data are shuffled without locality."""
    return max(1, min(block_samples, batches_per_epoch(num_samples, global_batch) // 4))


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
