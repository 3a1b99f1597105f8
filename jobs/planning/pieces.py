"""The pieces that measuring a run consists of: what there is to do, what still holds, and doing it.

A piece is one evaluation of one subject: the trained encoder, or what it is compared with. Subject after subject, so
that evaluations of the same encoder share its features.
"""

from __future__ import annotations

import importlib
import platform
import shutil
import time
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import nn

from dataprep.beton.subset import subset_path
from jobs.planning import provenance, recipes
from jobs.planning.run_folder import is_finished, read_run
from jobs.planning.subjects import LAST, build_encoder, subjects
from slurm.attempts import Pulse
from slurm.requeue import StopFlag
from slurm.watchdog import Watchdog
from vicreg.config import DataConfig, PretrainConfig
from vicreg.config_json import from_json, to_json
from vicreg.evals import data_identity, features, results
from vicreg.evals.results import BASELINES, SUBJECTS, Result, say_subject
from vicreg.evals.work import Work
from vicreg.exchange.encoder_file import checksum
from vicreg.model import num_features
from vicreg.ranks import distributed

PARTS = "features"  # in a job's folder, until its results are there
PERCENT = 100  # the progress of a job counts in hundredths of a piece
PACKAGES = ("torch", "torchvision", "timm", "numpy", "scikit-learn")


@dataclass(frozen=True)
class Piece:
    """One evaluation of one subject, with its whole configuration in JSON form."""

    evaluation: str
    """Name of its result."""
    asked_as: str
    """Name in the recipe, or of the published one."""
    module: str
    subject: str
    settings: dict[str, Any]
    train: str
    val: str
    encoder: str = ""
    """Which of the run's encoders; empty: the first."""

    def missing(self) -> str:
        """The beton, or the list of labelled images, that is not there; empty if all are."""
        needed = [Path(self.train), Path(self.val)]
        if subset := self.settings.get("subset"):
            needed.append(subset_path(Path(self.train), subset))
        return next((str(path) for path in needed if not path.is_file()), "")


@dataclass(frozen=True)
class Choice:
    """Which pieces are wanted; JSON-able, so that a job finds the same."""

    names: tuple[str, ...] = ()
    """Evaluations of the recipe, or published ones; all of the recipe's without names."""
    checkpoints: str = LAST
    """last: the finished encoder; all, or a number: the newest checkpoints of the run."""
    train: str = ""
    """Betons to measure on instead of the evaluations' own."""
    val: str = ""
    data: dict[str, str] = field(default_factory=dict)
    """Where data sets are, by name; data/NAME for others."""
    encoder: str = ""
    """Which of the run's encoders, where it has several; empty: the first. Results of another are NAME-of-ENCODER."""


def plan(run: Path, recipe: str, data: DataConfig, choice: Choice) -> list[Piece]:
    """All chosen pieces, those of one subject together. Raises ValueError for unknown names and settings."""
    chosen = [recipes.evaluation(recipe, name) for name in choice.names] or list(recipes.evaluations(recipe))
    pieces: list[Piece] = []
    for subject in subjects(run, choice.checkpoints):
        for evaluation in chosen:
            if subject in BASELINES and subject not in evaluation.baselines:
                continue
            settings = to_json(from_json(evaluation_module(evaluation.module).Config, evaluation.settings))
            name, train, val = _on(evaluation, data, choice)
            name += f"-of-{choice.encoder}" if choice.encoder else ""
            pieces.append(
                Piece(name, evaluation.name, evaluation.module, subject, settings, train, val, choice.encoder)
            )
    return pieces


def _on(evaluation: recipes.Evaluation, data: DataConfig, choice: Choice) -> tuple[str, str, str]:
    """Name, training beton and validation beton of an evaluation."""
    if choice.train:
        return f"{evaluation.name}-on-{Path(choice.train).absolute().parent.name}", choice.train, choice.val
    if not evaluation.data:
        return evaluation.name, data.train, data.val
    folder = Path(choice.data.get(evaluation.data, f"data/{evaluation.data}"))
    return evaluation.name, str(folder / "train.beton"), str(folder / "val.beton")


def split_by_data(pieces: list[Piece], is_named: bool, console: Console) -> list[Piece]:
    """The pieces whose betons are there; says which are not. ValueError if none is, or one was asked for by name."""
    missing = {piece.evaluation: piece.missing() for piece in pieces if piece.missing()}
    is_named = is_named or missing.keys() == {piece.evaluation for piece in pieces}
    for name, path in missing.items():
        said = f"{name}: no data ({path}: no such file)"
        cure = "write it with dataprep/write_ffcv.py (its --help), or say where it is in clusters.toml, [PROFILE.data]"
        if is_named:
            raise ValueError(f"{said}; {cure}")
        console.print(f"{said}, skipped; {cure}", highlight=False, soft_wrap=True)
    return [piece for piece in pieces if piece.evaluation not in missing]


def evaluation_module(name: str) -> Any:
    """The file vicreg/evals/<name>.py, with its `Config` and `evaluate`."""
    return importlib.import_module(f"vicreg.evals.{name}")


def find_due(run: Path, pieces: list[Piece], config: PretrainConfig, overwrite: bool, console: Console) -> list[Piece]:
    """The pieces without a result that still holds; says what is skipped, and why something is done again."""
    encoder = pieces[0].encoder if pieces else ""
    if not is_finished(run, encoder) and any(piece.subject in SUBJECTS for piece in pieces):
        return pieces  # what will be measured is not there yet
    sums = {
        subject: checksum(build_encoder(run, subject, config, encoder))
        for subject in dict.fromkeys(p.subject for p in pieces)
    }
    described = {
        pair: data_identity.describe(data_of(config, *pair)) for pair in dict.fromkeys((p.train, p.val) for p in pieces)
    }
    due: list[Piece] = []
    for piece in pieces:
        title = f"{piece.evaluation}, {say_subject(piece.subject)}"
        result = results.read(run, piece.evaluation, piece.subject)
        if result is None or overwrite:
            due.append(piece)
            continue
        data = described[piece.train, piece.val]
        changed = results.changes(result, piece.module, piece.settings, data, sums[piece.subject])
        if changed:
            due.append(piece)
            console.print(f"{title}: again, because of {'; '.join(changed)}", highlight=False, soft_wrap=True)
        else:
            console.print(f"{title}: done, skipped", highlight=False, soft_wrap=True)
    return due


def measure_all(
    run: Path,
    pieces: list[Piece],
    num_done: int,
    placement: distributed.Placement,
    console: Console,
    job_folder: Path,
    stop: StopFlag,
    watchdog: Watchdog,
) -> None:
    """All pieces in turn; the features of a subject are let go when the next one comes.

    num_done: pieces of the same job that were done before, so that its progress goes on from there. Stopped, when an
    evaluation that keeps its state was asked to stop; the others are interrupted at once.
    """
    config, _ = read_run(run)
    device = distributed.device_for(placement)
    workers = config.data.workers or placement.num_threads
    opened: dict[tuple[str, str], tuple[features.Splits, dict[str, Any]]] = {}
    subject, encoder = "", nn.Module()
    pulse = Pulse(job_folder, PERCENT * (num_done + len(pieces)))
    for number, piece in enumerate(pieces, num_done):
        if piece.subject != subject:
            subject, encoder = piece.subject, build_encoder(run, piece.subject, config, piece.encoder)
        if (piece.train, piece.val) not in opened:
            data_config = data_of(config, piece.train, piece.val)
            splits = features.open_splits(data_config, device, workers)
            splits = replace(splits, parts=job_folder / PARTS, heard=watchdog.heard)
            opened[piece.train, piece.val] = splits, data_identity.describe(data_config)
        splits, data = opened[piece.train, piece.val]
        stop.interrupt_at_once(not getattr(evaluation_module(piece.module), "RESUMES", False))
        folder = results.folder(run, piece.evaluation, piece.subject)
        work = Work(folder, should_stop=stop, require_owner=stop.require_owner, heard=watchdog.heard)
        if placement.rank == 0:
            work.beat = partial(_beat, pulse, stop, number)
        with watchdog.phase("a measurement"):
            result = measure(piece, encoder, splits, data, work)
        if placement.rank == 0:
            stop.require_owner()
            results.write(run, result)
            work.forget()
            pulse.beat(PERCENT * (number + 1), at_once=True)
            console.print(finished_line(result), highlight=False, soft_wrap=True)
        stop.interrupt_at_once()
    distributed.barrier()  # all have what they need of the parts
    if placement.rank == 0:
        shutil.rmtree(job_folder / PARTS, ignore_errors=True)


def _beat(pulse: Pulse, stop: StopFlag, num_done: int, step: int, num_steps: int) -> None:
    """A step of a piece is done; an evaluation that fails again and again but gets further is then worth going on."""
    stop.require_owner()
    pulse.beat(PERCENT * num_done + PERCENT * step // num_steps)


def data_of(config: PretrainConfig, train: str, val: str) -> DataConfig:
    """The run's data settings with other betons, of which every image counts."""
    return replace(config.data, train=train, val=val, on_bad="fail")


def measure(piece: Piece, encoder: nn.Module, splits: features.Splits, data: dict[str, Any], work: Work) -> Result:
    """One evaluation of one encoder."""
    module = evaluation_module(piece.module)
    sha256 = checksum(encoder)
    same_data = results.without_paths(data)
    work.belongs_to = {"module": piece.module, "settings": piece.settings, "data": same_data, "encoder": sha256}
    start = time.monotonic()
    more = (work,) if getattr(module, "RESUMES", False) else ()
    measured = module.evaluate(encoder, splits, from_json(module.Config, piece.settings), *more)
    on_gpu = splits.device.type == "cuda"
    return Result(
        evaluation=piece.evaluation,
        module=piece.module,
        subject=piece.subject,
        metrics=measured.metrics,
        settings=piece.settings,
        data=data,
        num_classes=splits.num_classes,
        num_features=num_features(encoder),
        encoder_sha256=sha256,
        duration_s=round(time.monotonic() - start, 3),
        num_ranks=distributed.world_size(),
        device=torch.cuda.get_device_name() if on_gpu else "CPU",
        versions={"python": platform.python_version()}
        | {name: version(name) for name in PACKAGES}
        | {"code": provenance.said(provenance.code().to_json())},
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
        details=measured.details,
    )


def finished_line(result: Result) -> str:
    """One line that says what came out."""
    shown = [(name, value) for name, value in result.metrics.items() if not name.endswith("_std")]
    numbers = ", ".join(f"{name.replace('_', ' ')} {value:.1f}" for name, value in shown)
    title = f"{result.evaluation}, {say_subject(result.subject)}"
    return f"{title}: {f'{numbers} %' if numbers else 'done'}  ({result.duration_s:.1f} s)"
