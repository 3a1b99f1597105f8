"""Jobs after jobs: a run's jobs are submitted together, each waits for those before it, and none is submitted twice.

jobs.json in the run folder holds what was submitted. A job whose predecessors fail is removed by SLURM
(--kill-on-invalid-dep) and shows up as such in the status; it is submitted again by the same command.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from slurm import executor, scheduler
from slurm.attempts import write_whole
from slurm.cluster import Cluster
from slurm.local import JobFailed
from slurm.task import JobSpec

log = logging.getLogger(__name__)

JOBS_FILE = "jobs.json"
JOBS_FOLDER = "jobs"


@dataclass(frozen=True)
class Member:
    """One job of a chain."""

    spec: JobSpec
    after: tuple[str, ...] = ()
    """Names of the jobs that it waits for."""
    condition: Literal["afterok", "afterany"] = "afterok"
    """Whether those must have succeeded, or only be over."""


@dataclass(frozen=True)
class Submitted:
    """A job that SLURM has been given."""

    name: str
    job_id: str
    cluster: str
    dependency: str
    submitted: float
    """Seconds since 1970."""
    is_new: bool = True
    """False when it was found waiting or running and left as it is; not kept in the file."""


def job_folder(run: Path, name: str) -> Path:
    """Where a job of a run keeps its logs and attempts."""
    return run / JOBS_FOLDER / name


def read_jobs(run: Path) -> dict[str, Submitted]:
    """The newest submission of each of a run's jobs, in the order in which they were submitted."""
    try:
        entries = json.loads((run / JOBS_FILE).read_text(encoding="utf-8"))
        return {entry["name"]: Submitted(**entry, is_new=False) for entry in entries}
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"{run / JOBS_FILE} is damaged ({error}); look for its jobs with squeue, then remove it"
        ) from error


def submit(run: Path, members: Sequence[Member], cluster: Cluster, after_job: str = "") -> list[Submitted]:
    """Submit a chain; jobs that wait or run already are left as they are. `after_job`: an id that all wait for."""
    with _only_one(run):
        known = read_jobs(run)
        alive = scheduler.queued(entry.job_id for entry in known.values())
        chain: list[Submitted] = []
        for member in members:
            name = member.spec.name
            if name in known and known[name].job_id in alive:
                chain.append(known[name])
                continue
            waits_for = [known[other].job_id for other in member.after if other in known]
            dependency = _dependency(member.condition, [job_id for job_id in waits_for if job_id in alive], after_job)
            job_id = executor.submit(member.spec, job_folder(run, name), cluster, dependency)
            entry = Submitted(name, job_id, cluster.name, dependency, time.time())
            known.pop(name, None)
            known[name] = entry
            alive[job_id] = scheduler.QueuedJob("PENDING", "", "", "", "", 0)
            chain.append(entry)
            _write(run, list(known.values()))  # after each: what is submitted is never forgotten
    return chain


def run_here(run: Path, members: Sequence[Member], cluster: Cluster) -> bool:
    """Run a chain on this machine, in order; whether all is finished. JobFailed, at the end, when a job failed."""
    unfinished: set[str] = set()
    failures: list[str] = []
    for member in members:
        name = member.spec.name
        if member.condition == "afterok" and unfinished.intersection(member.after):
            unfinished.add(name)
            continue
        try:
            finished = executor.run_here(member.spec, job_folder(run, name), cluster)
        except SystemExit as error:
            if len(members) == 1 or error.code != 1:
                raise
            failures.append(name)
            finished = False
        except Exception as error:  # whatever it is: what does not need this job's output still runs
            if not isinstance(error, JobFailed):
                if len(members) == 1:
                    raise
                log.exception("%s failed", name)
            failures.append(f"{name}: {error}")
            finished = False
        if not finished:
            unfinished.add(name)
    if failures:
        raise JobFailed(f"failed: {'; '.join(failures)}")
    return not unfinished


def _dependency(condition: str, job_ids: Sequence[str], after_job: str) -> str:
    parts = [f"afterok:{after_job}"] if after_job else []
    if job_ids:
        parts.append(":".join([condition, *job_ids]))
    return ",".join(parts)


def _write(run: Path, entries: Sequence[Submitted]) -> None:
    kept = [{name: value for name, value in asdict(entry).items() if name != "is_new"} for entry in entries]
    write_whole(run / JOBS_FILE, json.dumps(kept, indent=1))


@contextmanager
def _only_one(run: Path) -> Iterator[None]:
    """Hold the run's lock: two submissions at the same time would submit everything twice."""
    descriptor = os.open(run / ".jobs.lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("waiting for another command that submits jobs of %s", run)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
