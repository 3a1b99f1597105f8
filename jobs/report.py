"""What came out: the numbers of a run beside its baselines and, on published data, beside the published numbers.

It reads complete files of the run folder and nothing else, prints, and leaves the same in `report.md` there.
"""

from __future__ import annotations

import statistics
import sys
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from jobs.cli import LOG_WIDTH, user_errors
from jobs.document import Block, Code, Heading, Table, Text, markdown, show
from jobs.pieces import Choice, Piece, evaluation_module, plan, read_run
from slurm.requeue import StopFlag
from slurm.task import Task
from vicreg.config import PretrainConfig, differing_fields, to_json
from vicreg.evals import protocols, results
from vicreg.evals.results import SUBJECTS, TRAINED, Result, say_subject
from vicreg.export import ENCODER_FILE, checksum, load_encoder
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


def run_job(task: Task, stop: StopFlag, run: str) -> bool:
    """The report as a job: one rank, no GPU."""
    stop.interrupt_at_once()
    console = Console() if task.has_terminal else Console(force_terminal=False, width=LOG_WIDTH)
    with user_errors(note=task.note_error):
        blocks = describe_run(load_run(Path(run)))
        show(blocks, console)
        results.write_text(Path(run) / REPORT_FILE, markdown(blocks))
        console.print(f"written: {Path(run) / REPORT_FILE}", soft_wrap=True, highlight=False)
    return True


def load_run(path: Path) -> Run:
    """Everything about a run; ValueError when it is none."""
    config, recipe = read_run(path)
    pieces = plan(path, recipe, config.data, Choice())
    finished = (path / ENCODER_FILE).is_file()
    sha256 = checksum(load_encoder(path / ENCODER_FILE)) if finished else ""
    asked = {(piece.evaluation, piece.subject): piece for piece in pieces}
    found: dict[tuple[str, str], Result] = {}
    outdated: list[str] = []
    for result in results.read_all(path):
        key = result.evaluation, result.subject
        settings = asked[key].settings if key in asked else result.settings
        expected = sha256 if result.subject == TRAINED else result.encoder_sha256
        changed = results.changes(result, result.module, settings, result.data, expected)
        if changed:
            outdated.append(f"{result.evaluation}, {say_subject(result.subject)}: {'; '.join(changed)}")
        else:
            found[key] = result
    places = {key: number for number, key in enumerate(asked)}
    found = dict(sorted(found.items(), key=lambda pair: places.get(pair[0], len(places))))
    return Run(path, config, recipe, finished, pieces, found, outdated)


def describe_run(run: Run) -> list[Block]:
    """The report of one run."""
    blocks: list[Block] = [Heading(str(run.path)), Text(summary(run))]
    if not run.finished:
        again = f"python jobs/pretrain.py --recipe {run.recipe} --run {run.path}"
        return [*blocks, Text("Not finished, so nothing is measured. Go on with"), Code(again)]
    if run.results:
        blocks += measured_tables(run)
        blocks += [Text(line) for line in other_settings(run)]
        blocks += published(run)
    if run.outdated:
        blocks.append(Text(f"Left out, because it no longer holds: {'. '.join(run.outdated)}."))
    missing = [piece for piece in run.pieces if (piece.evaluation, piece.subject) not in run.results]
    if missing:
        names = ", ".join(f"{piece.evaluation} ({say_subject(piece.subject)})" for piece in missing)
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


def measured_tables(run: Run) -> list[Block]:
    """A table for each validation split."""
    betons = dict.fromkeys(result.data["val"]["path"] for result in run.results.values())
    return [measured_table(run, path) for path in betons]


def measured_table(run: Run, val_path: str) -> Table:
    """What was measured on a beton: one row per evaluation and metric, one column per subject."""
    measured = {key: result for key, result in run.results.items() if result.data["val"]["path"] == val_path}
    present = {subject for _, subject in measured}
    subjects = [name for name in SUBJECTS if name in present] + sorted(present - SUBJECTS.keys())
    num_images = next(iter(measured.values())).data["val"]["num_images"]
    title = f"Percent on {val_path} ({num_images:,} images), best of each row marked"
    table = Table(title, ["evaluation", "measure", *map(say_subject, subjects)], num_names=2)
    for evaluation in dict.fromkeys(name for name, _ in measured):
        columns = [measured.get((evaluation, subject)) for subject in subjects]
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
    said = "mAP" if first == "map" else first.replace("top", "top-")
    return said + (f", {rest.replace('_', ' ')}" if rest else "")


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
        measured |= {(result.evaluation, metric): value for metric, value in result.metrics.items()}
    columns = [column for name in sorted(data_sets) for column in protocols.published_columns(name, set(measured))]
    if not columns:
        return []
    headers = ["", "method", *(f"{column.title} ({column.source})" for column in columns)]
    table = Table(f"{columns[0].data_set}: measured and published, percent", headers, num_names=2)
    own = [measured[column.evaluation, column.metric] for column in columns]
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
            changed = (
                results.changes(column, first.module, first.settings, first.data, column.encoder_sha256)
                if column
                else []
            )
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


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
