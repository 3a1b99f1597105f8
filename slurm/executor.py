"""Places a job function on ranks: in this process, or as one process per rank of this machine.

A job is a dotted function name and JSON-able arguments, nothing pickled; its state lives in the run folder. submitit's
local executor is not used: it detaches the ranks from the terminal and cannot end the others when one dies.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

GRACE_S = 20.0  # time that the other ranks get to end after one has failed
PR_SET_PDEATHSIG = 1  # linux/prctl.h


class JobFailed(RuntimeError):
    """A rank ended with an error; the message says which, and where its log is."""


@dataclass(frozen=True)
class Task:
    """One rank of a job: where it stands, and the file through which the ranks find each other."""

    rank: int
    world_size: int
    local_rank: int
    local_size: int
    rendezvous: str


def launch(function: str, arguments: dict[str, Any], folder: Path, num_ranks: int) -> None:
    """Run `function(task, **arguments)` on `num_ranks` ranks of this machine and wait for them.

    `function` is "module.name"; logs of the ranks above 0 go to `folder/rank_N.log`, rank 0 has the terminal.
    Raises JobFailed when a rank fails, after the others have been ended; KeyboardInterrupt when it failed by Ctrl-C.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rendezvous = folder / f"rendezvous_{uuid.uuid4().hex}.json"
    if num_ranks == 1:
        _resolve(function)(Task(0, 1, 0, 1, str(rendezvous)), **arguments)
        return
    command = [sys.executable, "-m", "slurm.executor", function, json.dumps(arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": str(max(1, len(os.sched_getaffinity(0)) // num_ranks))}
    ranks: list[subprocess.Popen[bytes]] = []
    # The ranks get Ctrl-C from the terminal themselves; this process only waits for them to save and leave.
    interrupted: list[int] = []
    previous = signal.signal(signal.SIGINT, lambda number, _frame: interrupted.append(number))
    previous_term = signal.signal(signal.SIGTERM, lambda *_: _signal_all(ranks, signal.SIGTERM))
    try:
        for rank in range(num_ranks):
            task = json.dumps(asdict(Task(rank, num_ranks, rank, num_ranks, str(rendezvous))))
            if rank == 0:
                ranks.append(subprocess.Popen([*command, task], env=environment))
                continue
            with (folder / f"rank_{rank}.log").open("wb") as log:
                ranks.append(subprocess.Popen([*command, task], env=environment, stdout=log, stderr=log))
        _wait(ranks, folder)
    except JobFailed:
        if interrupted:
            raise KeyboardInterrupt from None
        raise
    finally:
        _end(ranks)
        signal.signal(signal.SIGINT, previous)
        signal.signal(signal.SIGTERM, previous_term)
        rendezvous.unlink(missing_ok=True)


def _wait(ranks: list[subprocess.Popen[bytes]], folder: Path) -> None:
    """Return when all ranks ended well; raise as soon as one did not."""
    codes = [process.poll() for process in ranks]
    while None in codes and not any(codes):
        time.sleep(0.05)
        codes = [process.poll() for process in ranks]
    failed = [(rank, code) for rank, code in enumerate(codes) if code]
    if failed:
        # A rank that was killed is the cause where others failed because it was gone.
        rank, code = min(failed, key=lambda pair: (pair[1] > 0, pair[0]))
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        where = "its error stands above" if rank == 0 else f"its log is {folder / f'rank_{rank}.log'}"
        raise JobFailed(f"rank {rank} of {len(ranks)} {how}; {where}")


def _signal_all(ranks: list[subprocess.Popen[bytes]], number: signal.Signals) -> None:
    for process in ranks:
        if process.poll() is None:
            process.send_signal(number)


def _end(ranks: list[subprocess.Popen[bytes]]) -> None:
    """End what still runs: politely, then for good."""
    if all(process.poll() is not None for process in ranks):
        return
    failed = any(process.returncode not in (None, 0) for process in ranks)
    _signal_all(ranks, signal.SIGTERM)
    deadline = time.monotonic() + (1.0 if failed else GRACE_S)
    while any(process.poll() is None for process in ranks) and time.monotonic() < deadline:
        time.sleep(0.05)
    _signal_all(ranks, signal.SIGKILL)
    for process in ranks:
        process.wait()


def _resolve(function: str) -> Callable[..., None]:
    module, _, name = function.rpartition(".")
    found: Callable[..., None] = getattr(importlib.import_module(module), name)
    return found


def _run_rank(function: str, arguments: str, task: str) -> None:
    """Body of a rank's process; it is told to stop when the launching process dies."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    _resolve(function)(Task(**json.loads(task)), **json.loads(arguments))


if __name__ == "__main__":
    _run_rank(*sys.argv[1:])
