"""Hundreds of ranks as threads of one process, whose collectives are torch's own for tests."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
import torch.distributed as dist
from torch.testing._internal.distributed import multi_threaded_pg

T = TypeVar("T")


def run_threaded_ranks(work: Callable[[], T], world_size: int) -> list[T]:
    """What `work` returns on each rank, in rank order; it sees a process group of that size."""
    # As torch's own MultiThreadedTestCase does; torch's stubs do not have it.
    isolate = torch._C._distributed_c10d._set_thread_isolation_mode
    store = dist.HashStore()

    def run(rank: int) -> T:
        dist.init_process_group("threaded", rank=rank, world_size=world_size, store=store)
        try:
            return work()
        except BaseException as error:
            multi_threaded_pg.ProcessLocalGroup.exception_handle(error)  # else the others would wait for ever
            raise
        finally:
            dist.destroy_process_group()

    isolate(True)
    multi_threaded_pg._install_threaded_pg()
    try:
        with ThreadPoolExecutor(world_size) as pool:
            return list(pool.map(run, range(world_size)))
    finally:
        multi_threaded_pg._uninstall_threaded_pg()
        isolate(False)
