"""The chains of a sweep: on a cluster all in the queue with a limit on how many run, here one after the other."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from border.terminal import Terminal
from border.text import suite_command, visible
from jobs.planning.plan import Plan, show_dry_run
from jobs.planning.sweeps import Sweep, Trial, arguments_of, without_sweep
from slurm import chain, scheduler
from slurm.chain import Member, Submitted
from slurm.cluster import Cluster
from slurm.local import JobFailed
from slurm.task import JobSpec

log = logging.getLogger(__name__)

PRETRAIN = "pretrain"


@dataclass(frozen=True)
class Prepared:
    """A run of a sweep that can be placed."""

    trial: Trial
    run: Path
    plan: Plan
    members: list[Member]
    """Its jobs that are still to be done."""


def prepare_all(
    sweep: Sweep,
    folder: Path,
    prepare: Callable[[list[str], Path, Console], tuple[Plan, list[Member]]],
    console: Console,
) -> list[Prepared]:
    """All runs of a sweep; `prepare` makes one of a command line, and says what is said of data for the first alone."""
    plain = without_sweep(sweep.command)
    quiet = Terminal(quiet=True)
    runs: list[Prepared] = []
    for trial in sweep.trials:
        run = folder / trial.name
        plan, members = prepare(arguments_of(trial, plain, run), run, quiet if runs else console)
        runs.append(Prepared(trial, run, plan, members))
    return runs


@dataclass
class Lanes:
    """At most so many pretrainings at a time: each new one waits until the last of a lane is over, however it ended."""

    at_once: int
    """0: no limit."""
    ends: list[Submitted] = field(default_factory=list)
    """The last job of each lane, the one that began first in front."""

    @classmethod
    def there(cls, at_once: int, waiting: Sequence[Submitted]) -> Lanes:
        """The lanes of jobs that are in the queue: their ends are those that none of the others waits for."""
        awaited = {job_id for job in waiting for job_id in job.dependency.replace(",", ":").split(":")}
        return cls(at_once, [job for job in waiting if job.job_id not in awaited])

    def next(self) -> list[Submitted]:
        """What another pretraining waits for."""
        return [self.ends.pop(0)] if self.at_once and len(self.ends) >= self.at_once else []

    def add(self, job: Submitted) -> None:
        """The pretraining that was submitted."""
        self.ends.append(job)


def report_of(folder: Path) -> Member:
    """The report on a whole sweep, as a job."""
    return Member(JobSpec("report", "jobs.report.run_job", {"run": str(folder)}, uses_gpus=False))


def submit_all(
    folder: Path, runs: Sequence[Prepared], cluster: Cluster, at_once: int, with_report: bool, console: Console
) -> None:
    """Submit what is to be done and not in the queue, within the lanes; then the report, behind all of it."""
    known = {prepared.run: chain.read_jobs(prepared.run).get(PRETRAIN) for prepared in runs}
    queue = scheduler.queue()
    waiting = [job for job in known.values() if job is not None and job.job_id in queue]
    lanes = Lanes.there(at_once, sorted(waiting, key=lambda job: int(job.job_id)))
    submitted: list[Submitted] = []
    ends: list[Submitted] = []
    for prepared in runs:
        if not prepared.members:
            continue
        learns = prepared.members[0].spec.name == PRETRAIN
        is_new = learns and known[prepared.run] not in waiting
        jobs = chain.submit(prepared.run, prepared.members, cluster, behind=lanes.next() if is_new else ())
        if is_new:
            lanes.add(jobs[0])
        submitted += jobs
        ends.append(jobs[-1])
    if with_report and ends:
        submitted += chain.submit(folder, [report_of(folder)], cluster, behind=ends)
    new = sum(job.is_new for job in submitted)
    console.print(f"jobs submitted: {new}; in the queue already: {len(submitted) - new}", highlight=False)
    console.print(f"watch them with  {suite_command('jobs/status.py', folder, '--watch')}", soft_wrap=True)


def run_all(folder: Path, runs: Sequence[Prepared], cluster: Cluster, with_report: bool, console: Console) -> bool:
    """Run what is to be done, here; whether all is finished. JobFailed, at the end, when a job failed."""
    failures: list[str] = []
    for number, prepared in enumerate(runs, 1):
        title = f"{number} of {len(runs)}: {visible(prepared.trial.name)}"
        console.rule(Text(title if prepared.members else f"{title}, done"), align="left")
        if not prepared.members:
            continue
        try:
            if not chain.run_here(prepared.run, prepared.members, cluster):
                return False
        except SystemExit as error:
            if error.code != 1:
                raise
            failures.append(prepared.trial.name)
        except Exception as error:  # whatever it is: the other runs do not need this one
            if not isinstance(error, JobFailed):
                log.exception("%s failed", prepared.trial.name)
            failures.append(f"{prepared.trial.name}: {error}")
    if with_report:
        chain.run_here(folder, [report_of(folder)], cluster)
    else:
        console.print(f"see  {suite_command('jobs/report.py', folder)}", soft_wrap=True)
    if failures:
        raise JobFailed(f"{len(failures)} of {len(runs)} runs failed, the others are done: {'; '.join(failures)}")
    return True


def show_sweep_plan(runs: Sequence[Prepared], console: Console) -> int:
    """Print what each run of a sweep would be, and the whole plan of the first; returns the exit code."""
    failed = [prepared for prepared in runs if any(check.passed is False for check in prepared.plan.checks)]
    shown = failed[0] if failed else runs[0]
    console.rule(f"one of {len(runs)} runs in full: {visible(shown.trial.name)}")
    code = show_dry_run(shown.plan, console)
    console.rule("all runs")
    table = Table(box=None, pad_edge=False)
    for title in ("run", "jobs to do", "checks"):
        table.add_column(title, overflow="fold")
    for prepared in runs:
        said = "; ".join(check.said for check in prepared.plan.checks if check.passed is False) or "ok"
        names = ", ".join(member.spec.name for member in prepared.members) or "none, all is done"
        table.add_row(Text(visible(prepared.trial.name)), Text(names), Text(visible(said)))
    console.print(table)
    return code


def summary(sweep: Sweep, folder: Path, at_once: int, cluster: Cluster) -> list[tuple[str, str]]:
    """The sweep in a few lines."""
    swept = ", ".join(sweep.options) or "nothing but the seed"
    limit = f"{at_once} at a time" if at_once else "as many as there is room for"
    pace = limit if cluster.scheduler == "slurm" else "one after the other"
    return [
        ("sweep", f"{len(sweep.trials)} runs of {len(sweep.combinations())} combinations of {swept}"),
        ("folder", f"{folder}; {pace}"),
    ]
