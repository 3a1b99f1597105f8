"""Doing the pieces that measuring a run consists of, one after another; what one cannot do stops no other."""

from __future__ import annotations

import logging
import platform
import shutil
import time
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.text import Text
from torch import nn

from dataprep.beton.contract import BadSample
from jobs.planning import provenance
from jobs.planning.pieces import Piece, Place
from jobs.planning.recipes import evaluation_module
from jobs.planning.run_folder import read_run
from jobs.planning.subjects import build_encoder
from slurm.attempts import Pulse
from slurm.hang_watchdog import Watchdog
from slurm.requeue import StopFlag
from vicreg.config import PretrainConfig
from vicreg.config_json import from_json
from vicreg.evals import data_identity, features, results
from vicreg.evals.results import CannotMeasure, Result, say_subject
from vicreg.evals.work import Work
from vicreg.exchange.encoder_file import checksum
from vicreg.model import num_features
from vicreg.ranks import distributed

log = logging.getLogger(__name__)

PARTS = "features"  # in a job's folder, until its results are there
PERCENT = 100  # the progress of a job counts in hundredths of a piece
PACKAGES = ("torch", "torchvision", "timm", "numpy", "scikit-learn")


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
    evaluation that keeps its state was asked to stop; the others are interrupted at once. CannotMeasure, at the end,
    with all that could not be measured; the reasons also lie where their results would.
    """
    config, _ = read_run(run)
    bench = _Bench(config, placement, job_folder, watchdog)
    pulse = Pulse(job_folder, PERCENT * (num_done + len(pieces)))
    failed: list[str] = []
    for number, piece in enumerate(pieces, num_done):
        stop.interrupt_at_once(not getattr(evaluation_module(piece.module), "RESUMES", False))
        folder = results.folder(run, piece.evaluation, piece.subject)
        work = Work(folder, should_stop=stop, require_owner=stop.require_owner, heard=watchdog.heard)
        if placement.rank == 0:
            work.beat = partial(_beat, pulse, stop, number)
        try:
            encoder = bench.encoder(run, piece)
            splits, data = bench.splits(piece)
            with watchdog.phase("a measurement"):
                result = measure(piece, encoder, splits, data, work)
        except ValueError as error:
            if not _is_of_all_ranks(error, placement):
                raise
            failed.append(f"{piece.evaluation}, {say_subject(piece.subject)}: {error}")
            if placement.rank == 0:
                stop.require_owner()
                results.write_reason(run, piece.evaluation, piece.subject, str(error))
                console.print(Text(f"{failed[-1]}; not measured", "yellow"), soft_wrap=True)
        else:
            if placement.rank == 0:
                stop.require_owner()
                results.write(run, result)
                work.forget()
                console.print(finished_line(result), highlight=False, soft_wrap=True)
        if placement.rank == 0:
            pulse.beat(PERCENT * (number + 1), at_once=True)
        stop.interrupt_at_once()
    distributed.barrier()  # all have what they need of the parts
    if placement.rank == 0:
        shutil.rmtree(job_folder / PARTS, ignore_errors=True)
    if failed:
        raise CannotMeasure(f"{len(failed)} of {len(pieces)} could not be measured: {'; '.join(failed)}")


def _is_of_all_ranks(error: ValueError, placement: distributed.Placement) -> bool:
    """Whether every rank has met it at the same place, so that all can go on with the next piece."""
    if isinstance(error, BadSample):
        return False
    return placement.world_size == 1 or isinstance(error, CannotMeasure)


class _Bench:
    """The encoder and the data at hand, which a piece shares with the one before it."""

    def __init__(
        self, config: PretrainConfig, placement: distributed.Placement, job_folder: Path, watchdog: Watchdog
    ) -> None:
        self._config, self._parts, self._watchdog = config, job_folder / PARTS, watchdog
        self._device = distributed.device_for(placement)
        self._workers = config.data.workers or placement.num_threads
        self._opened: dict[Place, tuple[features.Splits, dict[str, Any]]] = {}
        self._subject, self._encoder = "", nn.Module()

    def encoder(self, run: Path, piece: Piece) -> nn.Module:
        """What a piece measures."""
        if piece.subject != self._subject:
            run = Path(piece.source) if piece.source else run
            self._encoder = build_encoder(run, piece.subject, self._config, piece.encoder)
            self._subject = piece.subject
        return self._encoder

    def splits(self, piece: Piece) -> tuple[features.Splits, dict[str, Any]]:
        """What a piece measures on, and how a result says it."""
        place = Place.of(piece)
        if place not in self._opened:
            data = place.data(self._config)
            splits = features.open_splits(data, self._device, self._workers)
            splits = replace(splits, parts=self._parts, heard=self._watchdog.heard)
            self._opened[place] = splits, data_identity.describe(data)
        return self._opened[place]


def _beat(pulse: Pulse, stop: StopFlag, num_done: int, step: int, num_steps: int) -> None:
    """A step of a piece is done; an evaluation that fails again and again but gets further is then worth going on."""
    stop.require_owner()
    pulse.beat(PERCENT * num_done + PERCENT * step // num_steps)


def measure(piece: Piece, encoder: nn.Module, splits: features.Splits, data: dict[str, Any], work: Work) -> Result:
    """One evaluation of one encoder."""
    module = evaluation_module(piece.module)
    sha256 = checksum(encoder)
    same_data = results.without_paths(data)
    work.belongs_to = {"module": piece.module, "settings": piece.settings, "data": same_data, "encoder": sha256}
    start = time.monotonic()
    more = (work,) if getattr(module, "RESUMES", False) else ()
    config, notes = from_json(module.Config, piece.settings), []
    if hasattr(module, "fitted"):
        config, notes = module.fitted(config, splits, piece.options)
    for note in notes:
        log.info("%s: %s", piece.evaluation, note)
    measured = module.evaluate(encoder, splits, config, *more)
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
        options=piece.options,
        notes=notes,
    )


def finished_line(result: Result) -> str:
    """One line that says what came out."""
    shown = [(name, value) for name, value in result.metrics.items() if not name.endswith("_std")]
    numbers = ", ".join(f"{name.replace('_', ' ')} {value:.1f}" for name, value in shown)
    title = f"{result.evaluation}, {say_subject(result.subject)}"
    return f"{title}: {f'{numbers} %' if numbers else 'done'}  ({result.duration_s:.1f} s)"
