"""What came out: the numbers of a run beside its baselines and, on published data, beside the published numbers.

A report is a short document of headings, texts, commands and tables, made once and rendered twice: to the terminal and
to `report.md` in the run folder. It reads complete files of the run folder and nothing else.
"""

from __future__ import annotations

import statistics
import sys
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text as RichText

from jobs.cli import user_errors
from jobs.eval_all import ENCODER_FILE, Piece, evaluation_module, plan, read_run
from vicreg.config import PretrainConfig, differing_fields, to_json
from vicreg.evals import protocols, results
from vicreg.evals.results import SUBJECTS, TRAINED, Result
from vicreg.export import checksum, load_encoder
from vicreg.metrics import read_metrics

REPORT_FILE = "report.md"
COMPARISON_FILE = "comparison.md"


@dataclass(frozen=True)
class Command:
    """Print what was measured of one or more runs, and write it to report.md in each run folder."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Run folders; several are also put side by side, in comparison.md of the first."""

    def __post_init__(self) -> None:
        if not self.runs:
            raise ValueError("runs is empty, allowed: one run folder or more")


@dataclass(frozen=True)
class Heading:
    """A line that names what follows."""

    text: str


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Code:
    """A command to run."""

    text: str


@dataclass
class Table:
    """Cells as text; the first `num_names` columns name the row, the others hold numbers."""

    title: str
    headers: list[str]
    num_names: int
    rows: list[list[str]] = field(default_factory=list)
    best: set[tuple[int, int]] = field(default_factory=set)
    """(row, column) of the cells to mark."""

    def add(self, names: list[str], values: list[float | None], deviations: list[float | None], mark: bool) -> None:
        """A row of numbers, to a tenth of a percent; the largest is marked as printed, so equals are all marked."""
        printed = [None if value is None else f"{value:.1f}" for value in values]
        largest = max((float(text) for text in printed if text is not None), default=None)
        cells = list(names)
        for text, deviation in zip(printed, deviations, strict=True):
            if mark and text is not None and float(text) == largest and len(values) > 1:
                self.best.add((len(self.rows), len(cells)))
            spread = "" if deviation is None else f" ± {deviation:.1f}"
            cells.append("–" if text is None else text + spread)
        self.rows.append(cells)


Block = Heading | Text | Code | Table


@dataclass(frozen=True)
class Run:
    """What the report knows of a run."""

    path: Path
    config: PretrainConfig
    recipe: str
    finished: bool
    pieces: list[Piece]
    results: dict[tuple[str, str], Result]
    """By evaluation and subject."""
    outdated: list[str]
    """Results that no longer hold, and why."""


def main(arguments: list[str]) -> int:
    """Parse, read, print, write; returns the exit code."""
    console = Console()
    with user_errors():
        command = tyro.cli(Command, args=arguments)
        runs = [load_run(path) for path in command.runs]
        for run in runs:
            blocks = describe_run(run)
            show(blocks, console)
            results.write_text(run.path / REPORT_FILE, markdown(blocks))
        written = [run.path / REPORT_FILE for run in runs]
        if len(runs) > 1:
            blocks = compare(runs)
            show(blocks, console)
            results.write_text(runs[0].path / COMPARISON_FILE, markdown(blocks))
            written.append(runs[0].path / COMPARISON_FILE)
        console.print(f"written: {', '.join(map(str, written))}", soft_wrap=True, highlight=False)
        return 0


def load_run(path: Path) -> Run:
    """Everything about a run; ValueError when it is none."""
    config, recipe = read_run(path)
    pieces = plan(recipe, ())
    finished = (path / ENCODER_FILE).is_file()
    sha256 = checksum(load_encoder(path / ENCODER_FILE)) if finished else ""
    found: dict[tuple[str, str], Result] = {}
    outdated: list[str] = []
    for piece in pieces:
        result = results.read(path, piece.evaluation, piece.subject)
        if result is None:
            continue
        expected = sha256 if piece.subject == TRAINED else result.encoder_sha256
        changed = results.changes(result, piece.module, piece.settings, result.data, expected)
        if changed:
            outdated.append(f"{piece.evaluation}, {SUBJECTS[piece.subject]}: {'; '.join(changed)}")
        else:
            found[piece.evaluation, piece.subject] = result
    return Run(path, config, recipe, finished, pieces, found, outdated)


def describe_run(run: Run) -> list[Block]:
    """The report of one run."""
    blocks: list[Block] = [Heading(str(run.path)), Text(summary(run))]
    if not run.finished:
        again = f"python jobs/pretrain.py --recipe {run.recipe} --run {run.path}"
        return [*blocks, Text("Not finished, so nothing is measured. Go on with"), Code(again)]
    if run.results:
        blocks.append(measured_table(run))
        blocks += [Text(line) for line in other_settings(run)]
        blocks += published(run)
    if run.outdated:
        blocks.append(Text(f"Left out, because it no longer holds: {'. '.join(run.outdated)}."))
    missing = [piece for piece in run.pieces if (piece.evaluation, piece.subject) not in run.results]
    if missing:
        names = ", ".join(f"{piece.evaluation} ({SUBJECTS[piece.subject]})" for piece in missing)
        blocks += [Text(f"Missing: {names}. Measure with"), Code(f"python jobs/eval_all.py {run.path}")]
    return blocks


def summary(run: Run) -> str:
    """What the run is, in one sentence."""
    config = run.config
    some = next(iter(run.results.values()), None)
    images = f" ({some.data['train']['num_images']:,} images)" if some else ""
    parts = [
        f"recipe {run.recipe}",
        f"{config.model.encoder} at {config.data.image_size} px",
        f"{config.train.epochs} epochs of {config.data.train}{images}, {config.train.global_batch} images a step",
    ]
    lines = read_metrics(run.path)
    if lines:
        parts.append(f"{statistics.median(line['images_per_s'] for line in lines):,.0f} images/s")
        parts.append(f"trained for {timedelta(seconds=round(lines[-1]['elapsed_s']))} (h:mm:ss)")
        if not run.finished:
            parts.append(f"now in epoch {lines[-1]['epoch'] + 1}")
    return ", ".join(parts) + "."


def measured_table(run: Run) -> Table:
    """One row per evaluation and metric, one column per subject."""
    subjects = [name for name in SUBJECTS if any(subject == name for _, subject in run.results)]
    some = next(iter(run.results.values()))
    val = some.data["val"]
    title = f"Accuracy in percent on {val['path']} ({val['num_images']:,} images), best of each row marked"
    table = Table(title, ["evaluation", "measure", *(SUBJECTS[name] for name in subjects)], num_names=2)
    for evaluation in dict.fromkeys(name for name, _ in run.results):
        columns = [run.results.get((evaluation, subject)) for subject in subjects]
        for row, metric in enumerate(metric_names(columns)):
            values = [column.metrics.get(metric) if column else None for column in columns]
            deviations = [column.metrics.get(f"{metric}_std") if column else None for column in columns]
            table.add(["" if row else evaluation, say_metric(metric)], values, deviations, mark=True)
    return table


def metric_names(columns: list[Result | None]) -> list[str]:
    """All metrics of some results but the standard deviations, in their order."""
    names = dict.fromkeys(name for column in columns if column for name in column.metrics)
    return [name for name in names if not name.endswith("_std")]


def say_metric(name: str) -> str:
    """top1_10_labels -> top-1, 10 labels."""
    first, _, rest = name.partition("_")
    return first.replace("top", "top-") + (f", {rest.replace('_', ' ')}" if rest else "")


def other_settings(run: Run) -> list[str]:
    """One sentence per evaluation whose settings are not the defaults of its file."""
    lines: list[str] = []
    for (evaluation, subject), result in run.results.items():
        defaults = to_json(evaluation_module(result.module).Config())
        changed = differing_fields(defaults, result.settings)
        if changed and subject == TRAINED:
            lines.append(f"{evaluation}: not the default settings ({', '.join(changed)}).")
    return lines


def published(run: Run) -> list[Block]:
    """The measured numbers beside the published ones, if the data are the published data and nothing else."""
    trained = {name: result for (name, subject), result in run.results.items() if subject == TRAINED}
    measured: dict[tuple[str, str], float] = {}
    data_sets: set[str] = set()
    for result in trained.values():
        counts = (result.data["train"]["num_images"], result.data["val"]["num_images"], result.num_classes)
        data_sets.add(protocols.data_set_of(*counts))
        measured |= {(result.module, metric): value for metric, value in result.metrics.items()}
    columns = [column for name in sorted(data_sets) for column in protocols.published_columns(name, set(measured))]
    if not columns:
        return []
    headers = ["", "method", *(f"{column.title} ({column.source})" for column in columns)]
    table = Table(f"{columns[0].data_set}: measured and published, percent", headers, num_names=2)
    own = [measured[column.module, column.metric] for column in columns]
    table.add(["measured", str(run.path)], list(own), [None] * len(own), mark=False)
    methods = dict.fromkeys(method for column in columns for method in column.values)
    for method in sorted(methods, key=lambda name: name != protocols.OURS):
        values = [column.values.get(method) for column in columns]
        table.add(["published", method], values, [None] * len(values), mark=False)
    epochs = f"{run.config.model.encoder}, {run.config.train.epochs} epochs"
    note = f"Measured: {epochs}. Published: {protocols.PUBLISHED_SETTING}; {protocols.PAPER}."
    return [table, Text(note)]


def compare(runs: list[Run]) -> list[Block]:
    """The trained encoders of several runs side by side; like with like only."""
    table = Table("Trained encoders, percent", ["evaluation", "measure", *(str(run.path) for run in runs)], num_names=2)
    unlike: list[str] = []
    for evaluation in dict.fromkeys(name for run in runs for name, subject in run.results if subject == TRAINED):
        columns = [run.results.get((evaluation, TRAINED)) for run in runs]
        first = next(column for column in columns if column)
        for run, column in zip(runs, columns, strict=True):
            changed = results.changes(column, first.module, first.settings, first.data, column.encoder_sha256) if column else []
            if changed:
                unlike.append(f"{evaluation} of {run.path}: {'; '.join(changed)}")
        same = not any(line.startswith(f"{evaluation} of ") for line in unlike)
        for row, metric in enumerate(metric_names(columns)):
            values = [column.metrics.get(metric) if column else None for column in columns]
            deviations = [column.metrics.get(f"{metric}_std") if column else None for column in columns]
            table.add(["" if row else evaluation, say_metric(metric)], values, deviations, mark=same)
    blocks: list[Block] = [Heading("Side by side"), table]
    if unlike:
        blocks.append(Text(f"Not measured alike, so no best is marked: {'. '.join(unlike)}."))
    return blocks


def show(blocks: list[Block], console: Console) -> None:
    """Print a document."""
    for block in blocks:
        if isinstance(block, Table):
            console.print(_rich_table(block))
        elif isinstance(block, Heading):
            console.print(RichText(block.text, style="bold"))
        else:
            text = f"    {block.text}" if isinstance(block, Code) else block.text
            console.print(RichText(text), soft_wrap=isinstance(block, Code))
    console.print()


def _rich_table(table: Table) -> RichTable:
    drawn = RichTable(title=table.title, title_justify="left", title_style="italic", box=None, pad_edge=False)
    for column, header in enumerate(table.headers):
        drawn.add_column(header, justify="left" if column < table.num_names else "right", overflow="fold")
    for row, cells in enumerate(table.rows):
        drawn.add_row(*(_rich_cell(table, row, column, cell) for column, cell in enumerate(cells)))
    return drawn


def _rich_cell(table: Table, row: int, column: int, cell: str) -> RichText:
    if column < table.num_names:
        return RichText(cell)
    best = (row, column) in table.best
    return RichText(f"{cell} *" if best else f"{cell}  ", style="bold green" if best else "")


def markdown(blocks: list[Block]) -> str:
    """The document as Markdown."""
    parts: list[str] = []
    for block in blocks:
        if isinstance(block, Heading):
            parts.append(f"# {block.text}")
        elif isinstance(block, Code):
            parts.append(f"    {block.text}")
        elif isinstance(block, Text):
            parts.append(block.text)
        else:
            parts += [block.title + ":", _markdown_table(block)]
    return "\n\n".join(parts) + "\n"


def _markdown_table(table: Table) -> str:
    cells = [list(table.headers)]
    for row, values in enumerate(table.rows):
        cells.append([f"**{cell}**" if (row, column) in table.best else cell for column, cell in enumerate(values)])
    widths = [max(3, *(len(line[column]) for line in cells)) for column in range(len(table.headers))]
    names = range(table.num_names)
    lines = [
        "| " + " | ".join(cell.ljust(width) if column in names else cell.rjust(width)
                          for column, (cell, width) in enumerate(zip(line, widths, strict=True))) + " |"
        for line in cells
    ]
    rule = "|" + "|".join("-" * (width + 2) if column in names else "-" * (width + 1) + ":"
                          for column, width in enumerate(widths)) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
