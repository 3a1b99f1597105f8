"""How the ranks of a run agree: sums, exchanges and votes.

Every function also works in a single process without a process group, where it does nothing or returns its input.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from vicreg.ranks.waiting import counted


@dataclass(frozen=True)
class Placement:
    """Where one rank stands: its number among all ranks, and among those of its machine."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_size: int = 1
    cpus: int = 0
    """CPU cores of each rank; 0 for an equal share of those that this process may use."""
    hosts: tuple[str, ...] = ()
    """The machine of each rank, for messages; empty where there is only one."""
    link_gb_s: float = 0.0
    """What a rank can send to the others, in GB/s; 0: not known."""
    latency_us: float = 0.0
    """Duration of a collective of few bytes, for each doubling of the ranks; 0: not known."""

    @property
    def num_threads(self) -> int:
        """Threads for computing, and for decoding, that this rank may keep busy."""
        usable = len(os.sched_getaffinity(0))
        return max(1, min(self.cpus, usable) if self.cpus else usable // self.local_size)

    def name(self, rank: int) -> str:
        """A rank with its machine."""
        return f"{rank} on {self.hosts[rank]}" if self.hosts else str(rank)


def rank() -> int:
    """This process's rank, 0 without a process group."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Number of ranks, 1 without a process group."""
    return dist.get_world_size() if dist.is_initialized() else 1


def device_for(placement: Placement) -> torch.device:
    """The GPU of the local rank where there are GPUs, else the CPU with this rank's cores.

    Raises ValueError when the machine has fewer GPUs than ranks.
    """
    if torch.cuda.is_available():
        count = torch.cuda.device_count()
        if placement.local_rank >= count:
            raise ValueError(
                f"local rank {placement.local_rank} has no GPU: this machine shows {count} for "
                f"{placement.local_size} ranks; start at most one rank per GPU"
            )
        torch.cuda.set_device(placement.local_rank)
        return torch.device("cuda", placement.local_rank)
    # No more than torch began with: whoever set OMP_NUM_THREADS has shared out the cores.
    torch.set_num_threads(min(torch.get_num_threads(), placement.num_threads))
    return torch.device("cpu")


@counted
def sum_over_ranks(tensor: Tensor) -> Tensor:
    """The sum of `tensor` over the ranks, in place and without a gradient."""
    if dist.is_initialized():
        dist.all_reduce(tensor)
    return tensor


def begin_sum_over_ranks(tensor: Tensor) -> Callable[[], object]:
    """Begin to sum `tensor` over the ranks in place; what is returned waits until it is done."""
    if not dist.is_initialized():
        return lambda: None
    work = dist.all_reduce(tensor, async_op=True)
    assert work is not None
    return counted(work.wait)


@counted
def gather_rows(tensor: Tensor) -> Tensor:
    """All ranks' rows (n x ... each, equal n) below each other in rank order, without a gradient."""
    if not dist.is_initialized():
        return tensor
    tensor = tensor.contiguous()
    parts = [torch.empty_like(tensor) for _ in range(world_size())]
    dist.all_gather(parts, tensor)
    return torch.cat(parts)


def gather_uneven_rows(tensor: Tensor, counts: list[int]) -> Tensor:
    """All ranks' rows in rank order where rank r has `counts[r]` rows, without a gradient."""
    if not dist.is_initialized():
        return tensor
    longest = max(counts)
    padded = tensor.new_zeros((longest, *tensor.shape[1:]))
    padded[: len(tensor)] = tensor
    rows = gather_rows(padded)
    return torch.cat([rows[r * longest : r * longest + count] for r, count in enumerate(counts)])


def rows_to_columns(rows: Tensor) -> Tensor:
    """From this rank's rows (n x D) of all ranks' matrix to its columns of it (N x D / ranks), without a gradient.

    Where the ranks do not divide D, columns of zeros fill up what is missing.
    """
    ranks = world_size()
    if ranks == 1:
        return rows
    width = -(-rows.shape[1] // ranks)
    padded = nn.functional.pad(rows, (0, width * ranks - rows.shape[1]))
    incoming = _exchange(padded.view(len(rows), ranks, width).transpose(0, 1).contiguous())
    return incoming.view(ranks * len(rows), width)


def columns_to_rows(columns: Tensor, dims: int) -> Tensor:
    """The way back from `rows_to_columns`: this rank's rows (n x dims)."""
    if world_size() == 1:
        return columns
    ranks, rows, width = world_size(), len(columns) // world_size(), columns.shape[1]
    incoming = _exchange(columns.contiguous().view(ranks, rows, width))
    return incoming.transpose(0, 1).reshape(rows, ranks * width)[:, :dims]


@counted
def _exchange(parts: Tensor) -> Tensor:
    """Part r (r the first index) goes to rank r; from each rank comes the part that it has for this one."""
    incoming = torch.empty_like(parts)
    dist.all_to_all_single(incoming, parts)
    return incoming


@counted
def any_rank(flag: bool) -> bool:
    """Whether the flag is set on any rank; the same answer on every rank. A GPU and its queue are not waited for."""
    if not dist.is_initialized():
        return flag
    dist.all_reduce(votes := torch.tensor([int(flag)]), op=dist.ReduceOp.MAX)
    return bool(votes.item())


@counted
def from_rank_0(number: int) -> int:
    """Rank 0's number, on every rank."""
    if not dist.is_initialized():
        return number
    dist.broadcast(box := torch.tensor([number]), src=0)
    return int(box.item())


def barrier() -> None:
    """Return when every rank has come here."""
    any_rank(False)
