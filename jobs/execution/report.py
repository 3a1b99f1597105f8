"""What came out: the numbers of a run beside its baselines and, on published data, beside the published numbers.

It reads complete files of the run folder, leaves what it says in `report.md` there and, with curves and pictures, in
`report.html`, and prints it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Document:
    """A report in its three forms."""

    blocks: list[Block]
    """As it is printed, and written as Markdown."""
    page: str
    path: Path
    """Without `.md` and `.html`."""

    @property
    def files(self) -> list[Path]:
        """Where it is written."""
        return [self.path.with_name(f"{self.path.name}.{kind}") for kind in ("md", "html")]


def carry_out(command: Command) -> int:
    """Read, write, print; returns the exit code."""
    runs = [load_run(path) for path in command.runs if not is_sweep(path)]
    documents = [*map(sweep_report, filter(is_sweep, command.runs)), *map(report, runs)]
    if len(runs) > 1:
        blocks: list[Block] = [Heading("Side by side"), *side_by_side(runs)]
        documents.append(Document(blocks, html_report.comparison_page(runs), runs[0].path / COMPARISON))
    publish(documents, Terminal())
    return 0


def run_job(task: Task, stop: StopFlag, run: str) -> bool:
    """The report as a job: one rank, no GPU."""
    stop.interrupt_at_once()
    console = Terminal() if task.has_terminal else Terminal(force_terminal=False, width=LOG_WIDTH)
    with user_errors(note=task.note_error):
        folder = Path(run)
        publish([sweep_report(folder) if is_sweep(folder) else report(load_run(folder))], console)
        forget_features(folder, REPORT_JOB)
    return True


def report(run: Run) -> Document:
    """Of one run."""
    return Document(describe_run(run), html_report.run_page(run), run.path / REPORT)


def sweep_report(folder: Path) -> Document:
    """Of a sweep."""
    swept = load_sweep(folder)
    return Document(sweep_blocks(swept), sweep_page(swept), folder / REPORT)


def publish(documents: Sequence[Document], console: Console) -> None:
    """Write all of them and then print them, since who reads the output may have seen enough before its end."""
    for document in documents:
        for file, text in zip(document.files, (markdown(document.blocks), document.page), strict=True):
            write_text(file, text)
    for document in documents:
        show(document.blocks, console)
    written = [str(file) for document in documents for file in document.files]
    console.print(f"written: {', '.join(written)}", soft_wrap=True, highlight=False)


def describe_run(run: Run) -> list[Block]:
    """The report of one run."""
    blocks: list[Block] = [Heading(str(run.path)), Text(summary(run)), *experiment(run)]
    if run.finished and run.results:
        blocks += measured_tables(run)
        blocks += [Text(line) for line in (*matched_classes(run), *other_settings(run))]
        blocks += published([run])
    return [*blocks, *what_is_missing(run)]
