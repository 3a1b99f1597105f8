"""What came out: the numbers of a run beside its baselines and, on published data, beside the published numbers.

It reads complete files of the run folder, prints, and leaves the same in `report.md` there and, with curves and
pictures, in `report.html`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from border.terminal import Terminal
from disk.whole_files import write_text
from jobs.options.report import Command
from jobs.planning.cli import LOG_WIDTH, user_errors
from jobs.planning.job_sizes import REPORT as REPORT_JOB
from jobs.planning.run_folder import forget_features
from jobs.planning.sweeps import is_sweep
from jobs.reporting import html_report
from jobs.reporting.document import Block, Heading, Text, markdown, show
from jobs.reporting.measured_run import Run, load_run, summary, what_is_missing
from jobs.reporting.published_tables import published
from jobs.reporting.result_tables import (
    experiment,
    matched_classes,
    measured_tables,
    other_settings,
    side_by_side,
)
from jobs.reporting.sweep_report import load_sweep, sweep_blocks, sweep_page
from slurm.requeue import StopFlag
from slurm.task import Task

REPORT, COMPARISON = "report", "comparison"  # .md and .html


def carry_out(command: Command) -> int:
    """Read, print, write; returns the exit code."""
    console = Terminal()
    written = [path for folder in filter(is_sweep, command.runs) for path in sweep_report(folder, console)]
    runs = [load_run(path) for path in command.runs if not is_sweep(path)]
    written += [path for run in runs for path in report(run, console)]
    if len(runs) > 1:
        blocks = [Heading("Side by side"), *side_by_side(runs)]
        written += publish(blocks, html_report.comparison_page(runs), runs[0].path / COMPARISON, console)
    say_written(written, console)
    return 0


def run_job(task: Task, stop: StopFlag, run: str) -> bool:
    """The report as a job: one rank, no GPU."""
    stop.interrupt_at_once()
    console = Terminal() if task.has_terminal else Terminal(force_terminal=False, width=LOG_WIDTH)
    with user_errors(note=task.note_error):
        folder = Path(run)
        written = sweep_report(folder, console) if is_sweep(folder) else report(load_run(folder), console)
        say_written(written, console)
        forget_features(folder, REPORT_JOB)
    return True


def report(run: Run, console: Console) -> list[Path]:
    """Print and write the report of a run; returns its files."""
    return publish(describe_run(run), html_report.run_page(run), run.path / REPORT, console)


def sweep_report(folder: Path, console: Console) -> list[Path]:
    """Print and write the report of a sweep; returns its files."""
    swept = load_sweep(folder)
    return publish(sweep_blocks(swept), sweep_page(swept), folder / REPORT, console)


def publish(blocks: Sequence[Block], page: str, path: Path, console: Console) -> list[Path]:
    """Print a document and write it as Markdown, with the page beside it."""
    show(list(blocks), console)
    files = [path.with_name(f"{path.name}.{kind}") for kind in ("md", "html")]
    for file, text in zip(files, (markdown(list(blocks)), page), strict=True):
        write_text(file, text)
    return files


def say_written(paths: Sequence[Path], console: Console) -> None:
    """Name the files."""
    console.print(f"written: {', '.join(map(str, paths))}", soft_wrap=True, highlight=False)


def describe_run(run: Run) -> list[Block]:
    """The report of one run."""
    blocks: list[Block] = [Heading(str(run.path)), Text(summary(run)), *experiment(run)]
    if run.finished and run.results:
        blocks += measured_tables(run)
        blocks += [Text(line) for line in (*matched_classes(run), *other_settings(run))]
        blocks += published([run])
    return [*blocks, *what_is_missing(run)]
