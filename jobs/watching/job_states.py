"""Where the jobs of a run are: what SLURM says of them put together with what they left in their folders.

It asks and reads, changes nothing, and goes on without whatever is missing, half-written or not answering.
"""

from __future__ import annotations

import re
import socket
import subprocess
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

from jobs.watching import job_traces
from jobs.watching.job_traces import Job, Progress, find_jobs
from slurm import scheduler
from slurm.attempts import CANCELLED, FAILED, FINISHED, RUNNING, STOPPED
from slurm.calls import Patience, SchedulerError
from slurm.scheduler import QueuedJob

GIVEN_UP, REMOVED, NEVER_STARTED = "given up", "removed", "never started"
DEAD = (CANCELLED, GIVEN_UP, REMOVED)  # over for certain, and not finished
UNDONE = (*DEAD, FAILED, STOPPED, NEVER_STARTED)  # the same, if SLURM does not know the job any more
WAITING, ACTIVE = "PENDING", "RUNNING"  # squeue's words; all states in capitals are those of jobs that are not over
SUBMITTED = "SUBMITTED"  # nobody says what became of it
SILENT_AFTER_S = 60.0
PATIENCE_S = 3.0  # what the jobs wrote is worth showing without SLURM
OF_SLURM = re.compile(r"\d+")  # ids that SLURM gives


@dataclass(frozen=True)
class Queue:
    """What SLURM said of some jobs."""

    jobs: dict[str, QueuedJob]
    accounts: dict[str, str]
    """By sacct, in the words of this file: finished, cancelled, failed, or capitals for what is not over."""
    asked: frozenset[str]
    trouble: str = ""
    """Why SLURM did not answer."""

    @classmethod
    def ask(cls, runs: Iterable[Path]) -> Queue:
        """One squeue and one sacct for all jobs of the runs that have not said that they are finished."""
        unsettled = [job for run in runs for job in find_jobs(run) if OF_SLURM.fullmatch(job.job_id)]
        unsettled = [job for job in unsettled if not job.starts or job.starts[-1].outcome != FINISHED]
        asked = frozenset(job.job_id for job in unsettled)
        try:
            queued = scheduler.queued(sorted(asked), Patience(PATIENCE_S, tell=lambda _: None))
        except (SchedulerError, OSError, ValueError, subprocess.SubprocessError) as error:
            return cls({}, {}, frozenset(), (str(error).splitlines() or [repr(error)])[-1].split(";")[0])
        unseen = {name for job in unsettled for name in (job.job_id, *job.needs)} - queued.keys()
        accounts = scheduler.accounted(sorted(unseen))
        return cls(queued, {job_id: in_our_words(state) for job_id, state in accounts.items()}, asked)


@dataclass(frozen=True)
class JobState:
    """Where one job is."""

    run: Path
    name: str
    job_id: str
    state: str
    """In capitals, as squeue has it, while it is not over."""
    nodes: str
    restarts: int
    failures: int
    """Failed attempts."""
    elapsed_s: float
    """Time in all attempts; 0 before the first."""
    started: float
    """Start of the newest attempt, seconds since 1970; 0 before the first."""
    silent_s: float
    """How long a running job has not been heard of, where that is over a minute; else 0."""
    note: str
    """What it waits for, why it stopped or failed last, or what a running one has said last."""
    progress: Progress = field(default_factory=Progress)
    in_queue: bool = False
    pid: int = 0
    """Its process, if it runs on this machine without SLURM; else 0."""

    @property
    def is_over(self) -> bool:
        """Whether nothing more will come of it by itself."""
        return not self.state.isupper()


def collect(run: Path, queue: Queue | None = None) -> list[JobState]:
    """All jobs of a run; `queue`: SLURM's answer where it was asked for several runs at once, else it is asked here."""
    queue = Queue.ask([run]) if queue is None else queue
    jobs = find_jobs(run)
    names = {job.job_id: job.name for job in jobs}
    said = queue.accounts | {attempt.job_id: attempt.outcome for job in jobs for attempt in job.attempts}
    found: list[JobState] = []
    for job in jobs:  # what a job waits for was submitted before it
        undone = UNDONE if job.job_id in queue.asked else DEAD
        lost = [names.get(job_id, job_id) for job_id in job.needs if said.get(job_id) in undone]
        awaited = [names.get(job_id, job_id) for job_id in job.waits_for if said.get(job_id) not in (*UNDONE, FINISHED)]
        pid = job_traces.process_here(job.starts[-1]) if job.starts else 0
        state = decide_state(job, queue, bool(lost), pid)
        said[job.job_id] = state
        note = say_why(job, state, queue.jobs.get(job.job_id), lost if state == REMOVED else awaited)
        found.append(_describe(job, state, note, queue.jobs.get(job.job_id), pid))
    return found


def decide_state(job: Job, queue: Queue, is_lost: bool, pid: int) -> str:
    """The state of a job; `is_lost`: what it needs has failed. `pid`: its process here, or 0."""
    if job.job_id in queue.jobs:
        return queue.jobs[job.job_id].state
    account = queue.accounts.get(job.job_id, "")
    was_asked = job.job_id in queue.asked
    if not job.starts:
        return REMOVED if is_lost else account or (NEVER_STARTED if was_asked else SUBMITTED)
    last = job.starts[-1]
    if last.outcome in (FINISHED, CANCELLED):
        return last.outcome
    if account.isupper() or account == CANCELLED:
        return account
    if last.outcome == RUNNING:
        if OF_SLURM.fullmatch(job.job_id):
            return (account or STOPPED) if was_asked else ACTIVE
        return ACTIVE if pid or last.nodes != (socket.gethostname(),) else STOPPED
    if last.outcome == FAILED and job.failures_in_a_row >= job.max_failures:
        return GIVEN_UP
    return last.outcome


def say_why(job: Job, state: str, queued: QueuedJob | None, others: Sequence[str]) -> str:
    """The note of a job; `others` are the jobs that it waits for, or whose failure removed it."""
    last = job.attempts[-1] if job.attempts else None
    reason = next((attempt.reason for attempt in reversed(job.attempts) if attempt.reason), "")
    if queued and queued.state == WAITING:
        waits = f"waits for {', '.join(others)}" if queued.reason == "Dependency" and others else queued.reason
        start = f"start expected {_clock(queued.expected_start)}" if queued.expected_start else ""
        return "; ".join(part for part in (waits, start, reason and f"last: {reason}") if part)
    if state == REMOVED:
        return f"what it waited for did not finish: {', '.join(others)}"
    if state == NEVER_STARTED:
        return "SLURM does not know it any more; the same command submits it again"
    if state == SUBMITTED:
        return f"waits for {', '.join(others)}" if others else ""
    if state == STOPPED and last and last.outcome == RUNNING:
        return "ended without a word: killed, or its machine went down"
    if state == GIVEN_UP:
        return f"{job.failures_in_a_row} failures in a row without getting further: {reason}"
    if state == ACTIVE and reason:
        return reason if last and last.reason else f"started again after: {reason}"
    if state != FINISHED and reason not in ("", state):
        return reason
    return "" if state == FINISHED else job_traces.last_line(job.folder)


def _describe(job: Job, state: str, note: str, queued: QueuedJob | None, pid: int) -> JobState:
    now = time.time()
    since_start_s = _seconds(queued.elapsed) if queued else 0.0
    heard = max(job_traces.last_heard(job.folder), now - since_start_s if since_start_s else 0.0)
    is_running = state == ACTIVE
    ends = [attempt.ended or (now if is_running else heard) for attempt in job.attempts]
    elapsed_s = sum(end - attempt.started for end, attempt in zip(ends, job.attempts, strict=True))
    if is_running and not (job.starts and job.starts[-1].outcome == RUNNING):
        elapsed_s += since_start_s  # it has begun, and not said so yet
    nodes = queued.nodes if queued else job_traces.short_nodes(job.attempts[-1].nodes if job.attempts else ())
    silent_s = now - heard if is_running and heard and now - heard > SILENT_AFTER_S else 0.0
    progress = job_traces.read_progress(job.run, job.name)
    if state == FINISHED and not progress.epochs:
        progress = replace(progress, done=progress.total)  # it beats now and then, and not at its end
    return JobState(
        run=job.run,
        name=job.name,
        job_id=job.job_id,
        state=state,
        nodes=nodes,
        restarts=max(len(job.attempts) - 1, 0),
        failures=sum(attempt.outcome == FAILED for attempt in job.attempts),
        elapsed_s=elapsed_s,
        started=job.attempts[-1].started if job.attempts else 0.0,
        silent_s=silent_s,
        note=note,
        progress=progress if is_running and not silent_s else replace(progress, eta_s=0.0),
        in_queue=queued is not None,
        pid=pid,
    )


def in_our_words(state: str) -> str:
    """sacct's state of a job as a state of this file."""
    word = state.split(" ")[0].rstrip("+")  # CANCELLED by 1000
    if word in ("PENDING", "REQUEUED", "RUNNING", "SUSPENDED", "COMPLETING", "CONFIGURING", "RESIZING"):
        return word
    return {"COMPLETED": FINISHED, "CANCELLED": CANCELLED}.get(word, FAILED)


def _seconds(elapsed: str) -> float:
    """squeue's D-HH:MM:SS or MM:SS; 0 for what is none."""
    if not re.fullmatch(r"(\d+-)?\d+(:\d+)+", elapsed):
        return 0.0
    days, _, clock = elapsed.rpartition("-")
    seconds = 0
    for part in clock.split(":"):
        seconds = seconds * 60 + int(part)
    return float(int(days or 0) * 86400 + seconds)


def _clock(moment: str) -> str:
    """SLURM's 2026-11-24T09:30:00 as 09:30, with the day if it is not today."""
    try:
        parsed = datetime.fromisoformat(moment)
    except ValueError:
        return moment
    return parsed.strftime("%H:%M" if parsed.date() == datetime.now().date() else "%d %b %H:%M")
