"""How the ranks of a run find each other and agree; the only file that imports torch.distributed.

Every function also works in a single process without a process group, where it does nothing or returns its input.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from disk.whole_files import write_text
from vicreg.ranks import network
from vicreg.ranks.waiting import counted

INTERFACE_VARIABLE = "GLOO_SOCKET_IFNAME"
COLLECTIVE_TIMEOUT = timedelta(minutes=30)
GLOO_TRIES = 5  # it takes so often the time that it is given to connect


class RendezvousError(RuntimeError):
    """Not all ranks came together in time."""


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


@contextmanager
def connected(placement: Placement, rendezvous: Path, timeout_s: float = 300.0) -> Iterator[None]:
    """Bring all ranks together for the length of a block.

    Rank 0 opens a store on a port that the system chooses and publishes the address in the file `rendezvous`, which
    must be new for every start and visible to all ranks. Raises RendezvousError naming the ranks that did not come
    within `timeout_s` seconds.
    """
    if placement.world_size == 1:
        yield
        return
    store, towards = _open_store(placement, rendezvous, timeout_s)
    _await_all_ranks(store, placement, timeout_s)
    _choose_interface(store, placement, towards)
    try:
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo",  # the ranks' votes go from host to host
            store=dist.PrefixStore("group", store),
            rank=placement.rank,
            world_size=placement.world_size,
            timeout=timedelta(seconds=timeout_s / GLOO_TRIES),
        )
        barrier()
    except (dist.DistError, RuntimeError) as error:
        raise RendezvousError(
            f"rank {placement.name(placement.rank)} found the others but cannot exchange data with them over "
            f"{INTERFACE_VARIABLE}={os.environ.get(INTERFACE_VARIABLE, '')} ({str(error).splitlines()[0]}); set that "
            "variable to the interface by which the nodes reach each other (environment in clusters.toml)"
        ) from error
    set_timeout = getattr(dist, "set_timeout", None) or dist.distributed_c10d._set_pg_timeout  # the older name
    set_timeout(COLLECTIVE_TIMEOUT)
    try:
        yield
    finally:
        dist.destroy_process_group()
        if placement.rank == 0:
            rendezvous.unlink(missing_ok=True)


def _open_store(placement: Placement, rendezvous: Path, timeout_s: float) -> tuple[dist.TCPStore, str]:
    """The store, and this machine's address on the way to rank 0; empty for rank 0 itself."""
    timeout = timedelta(seconds=timeout_s)
    if placement.rank == 0:
        store = dist.TCPStore(network.LOOPBACK, 0, None, True, timeout, wait_for_workers=False)
        # The name first: it may lead to a faster network. Where it leads nowhere, or to the machine itself as Debian
        # has it (127.0.1.1), one of the addresses will do.
        hosts = [network.LOOPBACK] if _is_one_machine(placement) else [socket.gethostname(), *network.addresses()]
        write_text(rendezvous, json.dumps({"hosts": hosts, "port": store.port}))
        return store, ""
    start = time.monotonic()
    while not rendezvous.exists():
        if time.monotonic() > start + timeout_s:
            raise RendezvousError(
                f"rank {placement.name(placement.rank)} waited {timeout_s:.0f} s for the address of rank "
                f"{placement.name(0)} in {rendezvous}; that rank did not start, or not all machines share the folder"
            )
        time.sleep(0.05)
    hosts, port = network.read_address(rendezvous)
    try:
        host, towards = network.reach(hosts, port, start + timeout_s)
        return dist.TCPStore(host, port, None, False, timeout), towards
    except (ConnectionError, dist.DistError) as error:
        raise RendezvousError(
            f"rank {placement.name(placement.rank)} cannot reach rank {placement.name(0)} at port {port} of {error}; "
            f"does the name lead there (getent hosts {hosts[0]}), and is the port open between the machines?"
        ) from error


def _choose_interface(store: dist.Store, placement: Placement, towards: str) -> None:
    """Let gloo use the network by which the machines reach each other.

    It would take that to which the machine's own name leads: on Debian 127.0.1.1, where nobody else is.
    """
    if os.environ.get(INTERFACE_VARIABLE):
        return
    chosen = os.environ.get("NCCL_SOCKET_IFNAME", "")
    if _is_one_machine(placement):
        chosen = "lo"
    if chosen not in (name for _, name in socket.if_nameindex()):  # NCCL also takes beginnings of names, and lists
        here = network.machine()
        others = (rank for rank in range(placement.world_size) if store.get(f"here/{rank}").decode() != here)
        if store.get("here/0").decode() == here:
            other = next(others, None)
            towards = (
                network.LOOPBACK if other is None else network.address_towards(store.get(f"address/{other}").decode())
            )
        chosen = network.addresses(with_loopback=True).get(towards, "")
        store.set(f"address/{placement.rank}", towards)
    if chosen:
        os.environ[INTERFACE_VARIABLE] = chosen


def _is_one_machine(placement: Placement) -> bool:
    return placement.local_size == placement.world_size


def _await_all_ranks(store: dist.Store, placement: Placement, timeout_s: float) -> None:
    store.set(f"here/{placement.rank}", network.machine())
    names = [f"here/{number}" for number in range(placement.world_size)]
    deadline = time.monotonic() + timeout_s
    while not _all_there(store, names, placement):
        if time.monotonic() > deadline:
            missing = [placement.name(number) for number, name in enumerate(names) if not store.check([name])]
            raise RendezvousError(
                f"ranks [{', '.join(missing)}] of {placement.world_size} did not come within {timeout_s:.0f} s"
            )
        time.sleep(0.05)


def _all_there(store: dist.Store, names: list[str], placement: Placement) -> bool:
    try:
        return bool(store.check(names))
    except dist.DistError as error:  # rank 0 keeps the list, and gives up at about the same time
        raise RendezvousError(f"{placement.name(placement.rank)} lost {placement.name(0)} while waiting") from error


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
