"""What goes wrong, on purpose: processes that are killed, a scheduler that is silent, bits that are flipped."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from slurm.devcluster import processes
from slurm.devcluster.daemons import DevCluster


@contextmanager
def silent_controller(cluster: DevCluster) -> Iterator[None]:
    """slurmctld takes connections and answers nothing."""
    pid = cluster.pids["slurmctld"]
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def batch_step(job: Path) -> int:
    """The process of a job's batch step."""
    for name in os.listdir("/proc"):
        try:
            words = Path(f"/proc/{name}/cmdline").read_bytes().decode().split("\0") if name.isdigit() else []
        except OSError:
            continue
        if any(word.endswith("slurm/batch.py") for word in words) and str(job) in words:
            return int(name)
    raise AssertionError(f"no batch step of {job}")


def kill_all_of_batch_step(job: Path) -> None:
    """SIGKILL to everything of it: its srun, the batch step itself, and last the shell, which looks after it."""
    step = batch_step(job)
    shell = int(Path(f"/proc/{step}/stat").read_text().rpartition(")")[2].split()[1])
    doomed = [*descendants(step), step, shell]
    for number in (signal.SIGSTOP, signal.SIGKILL):  # none of them sees another one die
        for pid in doomed:
            processes.kill(pid, number)


def descendants(pid: int) -> list[int]:
    """The processes that a process has started, and those that they have."""
    return [other for other in processes.with_descendants([pid]) if other != pid]


def flip_bit(path: Path, place: int, bit: int) -> None:
    """One bit of a file is another; done twice it is as before."""
    with path.open("r+b") as file:
        file.seek(place)
        (byte,) = file.read(1)
        file.seek(place)
        file.write(bytes([byte ^ 1 << bit]))


@contextmanager
def flipped_bit(path: Path, place: int, bit: int) -> Iterator[None]:
    """`flip_bit`, for a while."""
    flip_bit(path, place, bit)
    try:
        yield
    finally:
        flip_bit(path, place, bit)


def refusal(read: Callable[[], Any], kinds: tuple[type[Exception], ...]) -> str:
    """What a reader objects to, in the words of an error that a user gets as a line; empty if it has read it."""
    try:
        read()
    except kinds as error:
        return str(error) or f"{type(error).__name__}, without a word"
    return ""
