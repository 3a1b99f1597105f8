"""Jobs after jobs: a run's jobs are submitted together, each waits for those before it, and none is submitted twice.

jobs.json in the run folder holds what was submitted. A job whose predecessors fail is removed by SLURM
(--kill-on-invalid-dep) and shows up as such in the status; it is submitted again by the same command.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from border.documents import checked, parse_json
from disk.whole_files import write_text
from slurm import attempts, executor, owner, scheduler
from slurm.calls import SchedulerError
from slurm.cluster import Cluster, unused_variables
from slurm.local import JobFailed
from slurm.scheduler import WAITING, QueuedJob
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
        entries = parse_json((run / JOBS_FILE).read_bytes(), list[dict[str, Any]])
        found = [checked(entry | {"is_new": False}, Submitted, "an entry") for entry in entries]
        return {entry.name: entry for entry in found}
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ValueError(
            f"{run / JOBS_FILE} is damaged ({error}); look for its jobs with squeue, then remove it"
        ) from error


def require_free(run: Path, name: str, cluster: Cluster) -> None:
    """Owned when a command works at the job already; what SLURM has of it is SLURM's to tell."""
    holder = owner.holder(job_folder(run, name))
    if cluster.scheduler == "local" or (holder and not holder.is_of_slurm):
        owner.require_free(job_folder(run, name))


def submit(
    run: Path, members: Sequence[Member], cluster: Cluster, after_job: str = "", behind: Sequence[Submitted] = ()
) -> list[Submitted]:
    """Submit a chain; jobs that wait or run already are left as they are. `after_job`: an id that all wait for.

    `behind`: jobs of other chains that must be over, however they end, before those begin that wait for none of this.
    """
    if unused := unused_variables(cluster):
        log.warning("not used, for the plan holds: %s", ", ".join(unused))
    with owner.alone(run):
        submission = _Submission(run, cluster, after_job, behind, read_jobs(run), scheduler.queue())
        for number, member in enumerate(members):
            try:
                submission.add(member)
            except SchedulerError as error:
                there = ", ".join(f"{job.name} ({job.job_id})" for job in submission.chain) or "nothing"
                rest = ", ".join(member.spec.name for member in members[number:])
                cure = "the same command submits the rest when SLURM takes it"
                raise SchedulerError(f"{error}; in the queue: {there}; not submitted: {rest}; {cure}") from error
    return submission.chain


@dataclass
class _Submission:
    """A chain while it is submitted."""

    run: Path
    cluster: Cluster
    after_job: str
    behind: Sequence[Submitted]
    known: dict[str, Submitted]
    queue: dict[str, QueuedJob]
    chain: list[Submitted] = field(default_factory=list)

    def add(self, member: Member) -> None:
        """Submit a job, unless it is in the queue; what is submitted is kept at once, and never forgotten."""
        name = member.spec.name
        there = self._find(name)
        news = {job.name for job in self.chain if job.is_new}.intersection(member.after)
        news |= {job.name for job in self.behind if job.is_new and not member.after}
        if there and not news:
            self._keep(there)
            return
        dependency = self._dependency(member)
        if there and self.queue[there.job_id].state == WAITING:  # for others than it should
            scheduler.wait_for(there.job_id, dependency)
            self._keep(replace(there, dependency=dependency))
            return
        require_free(self.run, name, self.cluster)
        job_id = executor.submit(member.spec, job_folder(self.run, name), self.cluster, dependency)
        self._keep(Submitted(name, job_id, self.cluster.name, dependency, time.time()))

    def _find(self, name: str) -> Submitted | None:
        """The job of this name in the queue: by its id or, if a command died before it kept that, by its script."""
        entry = self.known.get(name)
        if entry and entry.job_id in self.queue:
            return entry
        script = str(executor.script_of(job_folder(self.run, name)))
        lost = [job_id for job_id, job in self.queue.items() if job.script == script]
        return Submitted(name, max(lost, key=int), self.cluster.name, "", time.time(), is_new=False) if lost else None

    def _dependency(self, member: Member) -> str:
        before = [self.known[other].job_id for other in member.after if other in self.known]
        parts = [f"afterok:{self.after_job}"] if self.after_job else []
        if self.behind and not member.after:
            parts.append(":".join(["afterany", *(job.job_id for job in self.behind)]))
        if waits_for := [job_id for job_id in before if job_id in self.queue]:
            parts.append(":".join([member.condition, *waits_for]))
        return ",".join(parts)

    def _keep(self, entry: Submitted) -> None:
        self.known.pop(entry.name, None)
        self.known[entry.name] = entry
        self.chain.append(entry)
        self.queue.setdefault(entry.job_id, QueuedJob(WAITING, "", "", "", "", ""))
        kept = [asdict(entry) for entry in self.known.values()]
        for fields in kept:
            del fields["is_new"]
        write_text(self.run / JOBS_FILE, json.dumps(kept, indent=1))


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
            failures.append(_said(name, _noted(run, name)))
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


def _said(name: str, reason: str) -> str:
    return f"{name}: {reason}" if reason else name


def _noted(run: Path, name: str) -> str:
    """Why the last attempt of a job ended, as a rank has noted it; empty where none has."""
    past = attempts.read(job_folder(run, name))
    before, _, said = past[-1].reason.partition(": ") if past else ("", "", "")
    return said if before.startswith("rank ") else ""
