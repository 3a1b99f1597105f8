"""Runs a job on this machine: in this process for one rank, else as one process per rank, and waits for it.

submitit's local executor is not used: it detaches the ranks from the terminal and cannot end the others when one dies.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from dataclasses import asdict
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # the tree that this file stands in, whatever is installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from border.documents import parse_json
from slurm import attempts, owner
from slurm.attempts import FAILED, FINISHED, STOPPED, Attempt
from slurm.owner import Claim
from slurm.requeue import wanted_signals
from slurm.stage_data import stage
from slurm.task import ERROR, FINISHED_FILE, SIGNAL, JobSpec, Task, read_notes, run

GRACE_S = 20.0  # time that the other ranks get to end after one has failed
PR_SET_PDEATHSIG = 1  # linux/prctl.h


class JobFailed(RuntimeError):
    """A rank ended with an error; the message says which, and where its log is."""


def launch(spec: JobSpec, folder: Path) -> bool:
    """Run a job's ranks on this machine and wait for them; whether the job is finished (it may have been stopped).

    Logs of the ranks above 0 go to `folder/rank_N.log`, rank 0 has the terminal. Raises JobFailed when a rank fails,
    after the others have been ended; KeyboardInterrupt when it failed by Ctrl-C; Owned when the job runs already.
    """
    claim = owner.claim(folder)
    try:
        return _attempt(spec, folder, claim)
    finally:
        claim.release()


def _attempt(spec: JobSpec, folder: Path, claim: Claim) -> bool:
    """`launch`, in a folder that is this process's."""
    spec.write(folder)
    for stale in folder.glob("start_*"):
        shutil.rmtree(stale, ignore_errors=True)
    start_folder = folder / f"start_{uuid.uuid4().hex}"
    start_folder.mkdir()
    past = attempts.read(folder)
    attempts.close_forgotten(folder, attempts.progress(folder))
    attempt = Attempt(f"pid {os.getpid()}", len(past), (socket.gethostname(),), time.time())
    attempts.begin(folder, attempt)
    outcome, reason = FAILED, ""
    try:
        finished = _run_ranks(spec, folder, start_folder, claim)
        signals = read_notes(start_folder, SIGNAL)
        outcome, reason = (FINISHED, "") if finished else (STOPPED, signals[0].message if signals else "")
        return finished
    except BaseException as error:
        errors = read_notes(start_folder, ERROR)
        reason = f"rank {errors[0].rank}: {errors[0].message}" if errors else str(error)
        if isinstance(error, KeyboardInterrupt) or not claim.holds():
            outcome = STOPPED
        if isinstance(error, JobFailed) and errors:  # nobody watches that rank's log, and much may stand below rank 0's
            raise JobFailed(f"{error}: {errors[0].message}") from error
        raise
    finally:
        attempts.end(folder, attempt, outcome, reason, progress=attempts.progress(folder))
        shutil.rmtree(start_folder, ignore_errors=True)


def _run_ranks(spec: JobSpec, folder: Path, start_folder: Path, claim: Claim) -> bool:
    copies = {name: str(stage(Path(source), Path(spec.stage_folder))) for name, source in (spec.stage or {}).items()}
    arguments = spec.arguments | copies
    tasks = [
        Task(
            rank=rank,
            world_size=spec.num_ranks,
            local_rank=rank,
            local_size=spec.num_ranks,
            start_folder=str(start_folder),
            claim=str(claim.path),
            rendezvous_timeout_s=spec.rendezvous_timeout_s,
            hang_timeout_s=spec.hang_timeout_s,
            interconnect_gb_s=spec.interconnect_gb_s,
            interconnect_latency_us=spec.interconnect_latency_us,
            has_terminal=rank == 0,
        )
        for rank in range(spec.num_ranks)
    ]
    if len(tasks) == 1:
        return run(tasks[0], spec.function, arguments)
    command = [sys.executable, str(Path(__file__).resolve()), spec.function, json.dumps(arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": str(max(1, len(os.sched_getaffinity(0)) // spec.num_ranks))}
    ranks: list[subprocess.Popen[bytes]] = []
    # The ranks get Ctrl-C from the terminal themselves; this process only waits for them to save and leave.
    interrupted: list[int] = []
    previous = signal.signal(signal.SIGINT, lambda number, _frame: interrupted.append(number))
    passed_on = {signal.SIGTERM, signal.SIGHUP}.intersection(wanted_signals())
    before = {number: signal.signal(number, lambda *_: _signal_all(ranks, signal.SIGTERM)) for number in passed_on}
    try:
        for task in tasks:
            text = json.dumps(asdict(task))
            if task.has_terminal:
                ranks.append(subprocess.Popen([*command, text], env=environment))
                continue
            with (folder / f"rank_{task.rank}.log").open("wb") as log:
                ranks.append(subprocess.Popen([*command, text], env=environment, stdout=log, stderr=log))
        _wait(ranks, folder)
    except JobFailed:
        if interrupted:
            raise KeyboardInterrupt from None
        raise
    finally:
        _end(ranks)
        signal.signal(signal.SIGINT, previous)
        for number, handler in before.items():
            signal.signal(number, handler)
    return (start_folder / FINISHED_FILE).exists()


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


def _run_rank(function: str, arguments: str, task: str) -> None:
    """Body of a rank's process; it is told to stop when the launching process dies."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    run(parse_json(task, Task), function, parse_json(arguments, dict[str, Any]))


if __name__ == "__main__":
    _run_rank(*sys.argv[1:])
