"""How the ranks of a run find each other: through a file in the job's folder, or at the address that they are given.

Beside `distributed.py` the only file that imports torch.distributed.
"""

from __future__ import annotations

import functools
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from disk.whole_files import write_text
from vicreg.ranks import network
from vicreg.ranks.distributed import Placement, barrier

INTERFACE_VARIABLE = "GLOO_SOCKET_IFNAME"
COLLECTIVE_TIMEOUT = timedelta(minutes=30)
GLOO_TRIES = 5  # it takes so often the time that it is given to connect
GIVEN_HOST, GIVEN_PORT = "MASTER_ADDR", "MASTER_PORT"  # of torchrun, and of Kubernetes' PyTorch jobs


class RendezvousError(RuntimeError):
    """Not all ranks came together in time."""


@contextmanager
def connected(
    placement: Placement, rendezvous: Path, timeout_s: float = 300.0, is_given: bool = False
) -> Iterator[None]:
    """Bring all ranks together for the length of a block.

    Rank 0 opens a store on a port that the system chooses and publishes the address in the file `rendezvous`, which
    must be new for every start and visible to all ranks. Where the address is given by the environment, the path is
    only a name for this meeting. Raises RendezvousError naming the ranks that did not come within `timeout_s` seconds.
    """
    if placement.world_size == 1:
        yield
        return
    open_store = _join_given_store if is_given else _open_store
    store, towards = open_store(placement, rendezvous, timeout_s)
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


def _open_store(placement: Placement, rendezvous: Path, timeout_s: float) -> tuple[dist.Store, str]:
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


def _join_given_store(placement: Placement, name: Path, timeout_s: float) -> tuple[dist.Store, str]:
    """The same at the address that the environment names, where torchrun's agent serves already, or rank 0 does.

    An agent's store outlives a start of the ranks: what is kept there has the number of the start in its name.
    """
    host, port = os.environ[GIVEN_HOST], int(os.environ[GIVEN_PORT])
    start = f"{name} {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
    is_served = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    towards = ""
    try:
        if placement.rank:
            _, towards = network.reach([host], port, time.monotonic() + timeout_s)
        store = _given_store(host, port, not is_served and placement.rank == 0, timeout_s)
    except (ConnectionError, dist.DistError) as error:
        raise RendezvousError(
            f"rank {placement.name(placement.rank)} cannot reach rank 0 where {GIVEN_HOST} and {GIVEN_PORT} say "
            f"that it is, {host} port {port} ({str(error).splitlines()[0]}); did it start, and does the name lead "
            "there?"
        ) from error
    return dist.PrefixStore(start, store), towards


@functools.cache
def _given_store(host: str, port: int, serves: bool, timeout_s: float) -> dist.TCPStore:
    """One for as long as the process lives: the jobs of a chain meet there one after the other."""
    return dist.TCPStore(host, port, None, serves, timedelta(seconds=timeout_s), wait_for_workers=False)


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
