"""Job functions for tests that start ranks as processes; nothing heavy is imported, so that they start at once."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from pathlib import Path

from slurm import hang_watchdog as watchdog_module
from slurm.hang_watchdog import Watchdog
from slurm.requeue import StopFlag
from slurm.task import Task, node_name


def tell(task: Task, stop: StopFlag, folder: str, **copies: str) -> None:
    """Leave what this rank was told."""
    told = {**vars(task), "copies": {name: Path(copy).read_text() for name, copy in copies.items()}}
    (Path(folder) / f"told_{task.rank}.json").write_text(json.dumps(told))


def get_stuck(task: Task, stop: StopFlag, steps: int) -> None:
    """Take some steps that the watchdog hears of, then none."""
    watchdog_module.DUMP_LEAD_S = 0.1
    watchdog = Watchdog(task)
    for _ in range(steps):
        time.sleep(task.hang_timeout_s / 4)
        watchdog.heard()
    _wait_for_ever()


def fail_hopelessly(task: Task, stop: StopFlag) -> None:
    """As jobs do of what would be the same again: the message is noted, and the process ends."""
    if task.rank == 1:
        task.note_error("train.beton: sample 3 cannot be used", True)
        raise SystemExit(1)
    _wait_for_ever()


def be_slow(task: Task, stop: StopFlag, phase: str, times: float, on_rank: int = 0) -> None:
    """Take so many times the time-out for something, in a phase of its own if it has a name, while others wait."""
    watchdog_module.DUMP_LEAD_S = 0.1
    watchdog = Watchdog(task)
    watchdog.heard()
    with watchdog.phase(phase) if phase and task.rank == on_rank else contextlib.nullcontext():
        time.sleep(times * task.hang_timeout_s)
    watchdog.close()


def _wait_for_ever() -> None:
    time.sleep(600)


def stop_late(task: Task, stop: StopFlag, folder: str, how: str) -> bool:
    """Wait for a signal, then leave as told."""
    (Path(folder) / f"waits_{task.rank}").touch()
    while not stop():
        time.sleep(0.01)
    if how == "fail":
        raise RuntimeError("the other ranks are gone")
    return False


def ask_often(task: Task, stop: StopFlag, folder: str, steps: int) -> bool:
    """Ask after each step whether to stop, and leave a file if not."""
    for step in range(steps):
        (Path(folder) / f"step_{step}").unlink(missing_ok=True)
        if stop():
            return False
        (Path(folder) / f"step_{step}").touch()
    return True


def fail(task: Task, stop: StopFlag, on_rank: int, code: int = 0) -> None:
    """Fail on one rank, with an error or an exit code, while the others wait for it."""
    if task.rank != on_rank:
        _wait_for_ever()
    if code:
        raise SystemExit(code)
    raise ValueError("no such data")


def fail_at_first(task: Task, stop: StopFlag, times: int, on_rank: int) -> None:
    """Fail on one rank, each time otherwise, in the first so many starts of an allocation."""
    start = int(task.start_folder.rpartition("_")[2])
    if start < times:
        if task.rank != on_rank:
            _wait_for_ever()
        raise ValueError(f"failure {start + 1}")


def fail_on(task: Task, stop: StopFlag, node: str) -> None:
    """Fail wherever a node takes part."""
    if node_name() == node:
        raise ValueError("this node is broken")
    if node in task.hosts:
        _wait_for_ever()


def kill_itself(task: Task, stop: StopFlag, on_rank: int) -> None:
    """Die on one rank as if out of memory, while the others wait for it."""
    if task.rank != on_rank:
        _wait_for_ever()
    os.kill(os.getpid(), signal.SIGKILL)
