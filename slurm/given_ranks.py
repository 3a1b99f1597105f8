"""A rank that somebody else has started: torchrun, or a PyTorch job of Kubernetes.

Its environment says which it is (given_place.py), and where the first is. Starting the ranks anew is left to whoever
has started them; here is only what `local.py` does around them: the folder's owner, and the record of the attempts.
"""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

from slurm import attempts, owner
from slurm.attempts import FAILED, FINISHED, STOPPED, Attempt
from slurm.given_place import Place
from slurm.stage_data import stage
from slurm.task import FINISHED_FILE, SIGNAL, JobSpec, Task, read_notes, run

START_FOLDER = "start_given"


def launch(spec: JobSpec, folder: Path, place: Place) -> bool:
    """Take part in a job as one of its ranks; whether it is finished. Every rank calls it, for every job of a chain.

    Rank 0 takes the folder over: where the ranks are started anew, nobody can say whether those before have ended.
    """
    if place.rank >= spec.num_ranks:  # a job of one rank, such as the report
        return True
    start_folder = folder / START_FOLDER
    start_folder.mkdir(parents=True, exist_ok=True)
    for stale in (*start_folder.glob(f"*_{place.rank}.json"), *([] if place.rank else [start_folder / FINISHED_FILE])):
        stale.unlink(missing_ok=True)
    copies = {name: str(stage(Path(source), Path(spec.stage_folder))) for name, source in (spec.stage or {}).items()}
    arguments = spec.arguments | copies
    if place.rank:
        return run(_task(spec, start_folder, place), spec.function, arguments)
    spec.write(folder)
    name = f"rank 0 of {place.world_size} given ones, {socket.gethostname()} process {os.getpid()}"
    claim = owner.claim(folder, name, take_over=True)
    attempt = Attempt(f"pid {os.getpid()}", len(attempts.read(folder)), (socket.gethostname(),), time.time())
    attempts.close_forgotten(folder, attempts.progress(folder))
    attempts.begin(folder, attempt)
    outcome, reason = FAILED, ""
    try:
        finished = run(_task(spec, start_folder, place, str(claim.path)), spec.function, arguments)
        signals = read_notes(start_folder, SIGNAL)
        outcome, reason = (FINISHED, "") if finished else (STOPPED, signals[0].message if signals else "")
        return finished
    except BaseException as error:
        reason = str(error)
        raise
    finally:
        attempts.end(folder, attempt, outcome, reason, progress=attempts.progress(folder))
        claim.release()


def _task(spec: JobSpec, start_folder: Path, place: Place, claim: str = "") -> Task:
    return Task(
        rank=place.rank,
        world_size=spec.num_ranks,
        local_rank=place.local_rank,
        local_size=min(place.local_size, spec.num_ranks),
        start_folder=str(start_folder),
        claim=claim,
        rendezvous_timeout_s=spec.rendezvous_timeout_s,
        hang_timeout_s=spec.hang_timeout_s,
        interconnect_gb_s=spec.interconnect_gb_s,
        interconnect_latency_us=spec.interconnect_latency_us,
        is_given=True,
        has_terminal=place.rank == 0,
    )
