"""Where a run's jobs are: one table, live with --watch; their logs; an end to them with --cancel."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

if __name__ == "__main__":  # the tree that this file stands in, whatever is installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import tyro
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from border.terminal import Terminal, typed
from border.text import visible
from disk.closed_pipe import quietly
from jobs.planning.cli import CONFIG_FILE, user_errors
from jobs.planning.command_line import read_command
from jobs.planning.sweeps import SWEEP_FILE, is_sweep, run_folders
from jobs.watching import job_traces
from jobs.watching.job_states import OF_SLURM, Queue, collect
from jobs.watching.job_states import JobState as State
from jobs.watching.sweep_table import sweep_table
from jobs.watching.wording import clock, pace_line, progress_line
from slurm import chain, scheduler
from slurm.attempts import CANCELLED, FINISHED
from slurm.calls import SchedulerError
from slurm.cluster import load

WATCH_EVERY_S = 5.0
NUM_LOG_LINES = 40
COLOURS = {FINISHED: "green", "RUNNING": "cyan", "PENDING": "yellow", CANCELLED: "magenta", "stopped": "yellow"}
OTHER_COLOUR = "red"


@dataclass(frozen=True)
class Command:
    """Show the jobs of a run, or of all runs: state, place, progress, what they wait for, why they failed."""

    run: Annotated[
        Path | None, tyro.conf.Positional, tyro.conf.arg(metavar="[RUN]", help_behavior_hint="(default: all runs)")
    ] = None
    """Run folder, or that of a sweep."""
    watch: bool = False
    """Show it again every few seconds until all is over; Ctrl-C leaves the jobs alone."""
    logs: Annotated[tuple[str, ...] | None, tyro.conf.arg(metavar="[JOB ...]", help_behavior_hint="")] = None
    """Show the last lines of the logs of these jobs (such as pretrain), of all jobs of the run if none is named."""
    cancel: bool = False
    """Cancel the run's jobs that wait or run; those on this machine save and stop."""
    cluster: Annotated[str, tyro.conf.arg(help_behavior_hint="(default: as jobs/pretrain.py)")] = field(default="")
    """Profile whose runs/ folder is meant where no run is given."""


def main(arguments: list[str]) -> int:
    """Parse, look, show; returns the exit code."""
    console = Terminal()
    with user_errors():
        command = read_command(Command, arguments)
        if command.run is None and (command.logs is not None or command.cancel):
            raise ValueError("--logs and --cancel are of one run; name its folder in front of them")
        runs = find_runs(command.run, Path(load(command.cluster).shared_folder) / "runs")
        if command.cancel:
            for run in runs:
                cancel(run, console)
        elif command.logs is not None:
            for run in runs:
                show_logs(run, command.logs, console)
        elif command.watch:
            watch(runs, console)
        else:
            console.print(tables(look(runs)))
    return 0


def find_runs(run: Path | None, everywhere: Path) -> list[Path]:
    """The run folder, the runs of a sweep's, or all in `everywhere`, newest last; ValueError where there is none."""
    if run is not None and is_sweep(run):
        if begun := run_folders(run):
            return begun
        raise ValueError(f"none of the runs of {run} has begun; start them with the same command again")
    if run is not None:
        if not (run / CONFIG_FILE).is_file():
            raise ValueError(f"{run} is no run folder (it has no {CONFIG_FILE}); allowed: a --run of jobs/pretrain.py")
        return [run]
    found = [path.parent for path in everywhere.glob(f"*/{CONFIG_FILE}")]
    found += [run for path in everywhere.glob(f"*/{SWEEP_FILE}") for run in run_folders(path.parent)]
    if not found:
        raise ValueError(f"{everywhere} holds no runs; start one with jobs/pretrain.py, or name its folder")
    return sorted(found, key=lambda path: (path / CONFIG_FILE).stat().st_mtime)


@dataclass(frozen=True)
class View:
    """The jobs of some runs at one moment."""

    runs: dict[Path, list[State]]
    trouble: str
    """Why SLURM did not answer; empty if it did."""

    @property
    def is_over(self) -> bool:
        """Whether nothing more will happen by itself."""
        return all(job.is_over for jobs in self.runs.values() for job in jobs)


def look(runs: Sequence[Path]) -> View:
    """Ask SLURM once for all runs, and read what their jobs have written."""
    queue = Queue.ask(runs)
    return View({run: collect(run, queue) for run in runs}, queue.trouble)


def watch(runs: Sequence[Path], console: Console) -> None:
    """The table, again and again, until all is over or Ctrl-C."""
    try:
        with Live(console=console, auto_refresh=False, vertical_overflow="visible") as live:
            while True:
                view = look(runs)
                live.update(tables(view), refresh=True)
                if view.is_over:
                    return
                time.sleep(WATCH_EVERY_S)
    except KeyboardInterrupt:
        return


def tables(view: View) -> RenderableType:
    """A table for each run, and one for all runs of a sweep."""
    parts: list[RenderableType] = []
    swept = {folder: runs for folder, runs in _by_folder(view).items() if is_sweep(folder)}
    parts += [sweep_table(folder, runs) for folder, runs in swept.items()]
    for run, jobs in view.runs.items():
        if run.parent in swept:
            continue
        parts.append(table(run, jobs) if jobs else Text(f"{visible(run)}: no jobs yet", style="dim"))
    if view.trouble:
        parts.append(
            Text(f"SLURM does not answer ({visible(view.trouble)}); this is what the jobs wrote", style="yellow")
        )
    return Group(*parts)


def _by_folder(view: View) -> dict[Path, dict[Path, list[State]]]:
    """The runs by the folders that they lie in."""
    found: dict[Path, dict[Path, list[State]]] = {}
    for run, jobs in view.runs.items():
        found.setdefault(run.parent, {})[run] = jobs
    return found


def table(run: Path, jobs: Sequence[State]) -> Table:
    """One row per job, with two lines where there is something to say."""
    shown = Table(title=Text(visible(run), style="bold"), title_justify="left", box=None, pad_edge=False, expand=True)
    for title in ("job", "state", "nodes"):
        shown.add_column(title, no_wrap=title != "nodes", overflow="fold")
    shown.add_column("starts", justify="right", no_wrap=True)
    shown.add_column("time", justify="right", no_wrap=True)
    shown.add_column("progress, and news", ratio=1, overflow="fold")
    for job in jobs:
        shown.add_row(
            Text.assemble(visible(job.name), "\n", (visible(job.job_id), "dim")),
            Text(visible(job.state), style=COLOURS.get(job.state, "cyan" if job.state.isupper() else OTHER_COLOUR)),
            Text(visible(job.nodes)),
            Text(str(job.restarts + 1) if job.started else ""),
            Text(clock(job.elapsed_s) if job.started or job.elapsed_s else ""),
            Text("\n").join(_news(job)),
        )
    return shown


def _news(job: State) -> list[Text]:
    lines = []
    if how_far := progress_line(job.progress):
        lines.append(Text(how_far))
    if job.state == "RUNNING" and (pace := pace_line(job.progress)):
        lines.append(Text(pace, style="dim"))
    if job.silent_s:
        lines.append(Text(f"silent for {clock(job.silent_s)}", style="yellow"))
    if job.note:
        lines.append(
            Text(visible(job.note, kept="\n"), style="dim" if job.state in (FINISHED, "RUNNING", "PENDING") else "")
        )
    return lines


def show_logs(run: Path, names: Sequence[str], console: Console) -> None:
    """The last lines of the logs of the named jobs, of all without names."""
    jobs = {job.name: job for job in job_traces.find_jobs(run)}
    unknown = [name for name in names if name not in jobs]
    if unknown:
        raise ValueError(f"logs is {', '.join(unknown)}, allowed for {run}: {', '.join(jobs) or 'no jobs yet'}")
    for name in names or jobs:
        files = job_traces.log_files(jobs[name].folder)
        if not files:
            console.print(f"{name}: no logs yet", style="dim")
        for path in files:
            console.rule(Text.assemble((visible(name), "bold"), f"  {visible(path)}"), align="left")
            for line in job_traces.tail(path, NUM_LOG_LINES):
                console.print(line, highlight=False, soft_wrap=True)


def cancel(run: Path, console: Console) -> None:
    """End all jobs of a run that wait or run."""
    view = look([run])
    jobs = view.runs[run]
    known = chain.read_jobs(run)
    on_slurm = [job for job in jobs if OF_SLURM.fullmatch(job.job_id) and not job.is_over]
    if on_slurm and view.trouble:
        raise SchedulerError(f"nothing cancelled: SLURM does not answer ({visible(view.trouble)})")
    if on_slurm:
        scheduler.cancel([job.job_id for job in on_slurm])
    here = [job for job in jobs if job.pid]
    for job in here:
        os.kill(job.pid, signal.SIGTERM)
    for job in on_slurm:
        where = known[job.name].cluster if job.name in known else "SLURM"
        console.print(f"{job.name}: cancelled (job {job.job_id} on {where})", highlight=False)
    for job in here:
        console.print(f"{job.name}: asked to save and stop (process {job.pid} here)", highlight=False)
    if not on_slurm and not here:
        console.print(f"{run}: no job waits or runs", highlight=False)


def script() -> int:
    """The command as it is typed."""
    return quietly(lambda: typed(main))


if __name__ == "__main__":
    sys.exit(script())
