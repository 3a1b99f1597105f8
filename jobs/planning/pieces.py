"""The pieces that measuring a run consists of: what there is to do, and what still holds.

A piece is one evaluation of one subject: the trained encoder, or what it is compared with. Subject after subject, so
that evaluations of the same encoder share its features.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from dataprep.beton.contract import open_beton
from dataprep.beton.subset import subset_path
from jobs.planning import recipes
from jobs.planning.eval_options import Options, other_encoders
from jobs.planning.recipes import LAST, evaluation_settings
from jobs.planning.run_folder import is_finished, read_run
from jobs.planning.subjects import build_encoder, is_comparable, subjects
from jobs.planning.writing_commands import subset_command, writing_command
from vicreg.config import DataConfig, Precision, PretrainConfig
from vicreg.config_json import from_json, to_json
from vicreg.evals import data_identity, results
from vicreg.evals.protocols import IMAGENET_TRAIN
from vicreg.evals.results import BASELINES, STEP, SUBJECTS, TRAINED, say_subject
from vicreg.exchange.encoder_file import checksum


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
    options: dict[str, Any] = field(default_factory=dict)
    """Those of the settings that were given by option."""
    source: str = ""
    """The run folder of an encoder that stands beside the run's own; empty for the run itself."""

    def missing(self) -> str:
        """The beton, or a list of labelled images that cannot be drawn, that is not there; empty if all are."""
        needed = [Path(self.train), Path(self.val)]
        if (subset := self.settings.get("subset")) and needed[0].is_file():
            is_published = open_beton(needed[0]).num_samples == IMAGENET_TRAIN
            if is_published or "subset" in self.options:
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
    settings: Options = field(default_factory=dict)
    """Settings that were given by option, by the evaluation's name."""
    baselines: tuple[str, ...] = ()
    """What is measured beside the trained encoder, more than the recipe says: random, pixels, other run folders."""
    precision: Precision = "auto"
    """Arithmetic of the encoder."""

    @classmethod
    def read(cls, values: dict[str, Any]) -> Choice:
        """A choice from its JSON form."""
        return cls(**{**values, "names": tuple(values["names"]), "baselines": tuple(values.get("baselines", ()))})


def plan(run: Path, recipe: str, data: DataConfig, choice: Choice, keeps_options: bool = True) -> list[Piece]:
    """All chosen pieces, those of one subject together. Raises ValueError for unknown names and settings.

    keeps_options: an evaluation that was measured with settings given by option has them until others are given.
    """
    chosen = recipes.chosen_evaluations(recipe, choice.names)
    others = other_encoders(choice.baselines)
    wanted = {*choice.baselines} & {*BASELINES} | others.keys()
    pieces: list[Piece] = []
    for subject in [*subjects(run, choice.checkpoints), *others]:
        for evaluation in chosen:
            more = wanted if is_comparable(evaluation.module, subject) else set()
            if subject not in (TRAINED, *evaluation.baselines, *more) and not subject.startswith(STEP):
                continue
            name, train, val = _on(evaluation, data, choice)
            name += f"-of-{choice.encoder}" if choice.encoder else ""
            options = choice.settings.get(evaluation.name)
            if options is None:
                options = _kept_options(run, name, evaluation) if keeps_options else {}
            config = from_json(evaluation_settings(evaluation.module), evaluation.settings | options)
            pieces.append(
                Piece(
                    evaluation=name,
                    asked_as=evaluation.name,
                    module=evaluation.module,
                    subject=subject,
                    settings=to_json(config),
                    train=train,
                    val=val,
                    encoder="" if subject in others else choice.encoder,
                    options=options,
                    source=others.get(subject, ""),
                )
            )
    return pieces


def _kept_options(run: Path, name: str, evaluation: recipes.Evaluation) -> dict[str, Any]:
    """What the result that is there was told by option, if this version still knows it."""
    there = results.read(run, name, TRAINED)
    if there is None or not there.options or there.module != evaluation.module:
        return {}
    try:
        from_json(evaluation_settings(evaluation.module), evaluation.settings | there.options)
    except ValueError:
        return {}
    return there.options


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
        piece = next(piece for piece in pieces if piece.evaluation == name)
        is_beton = Path(path) in (Path(piece.train), Path(piece.val))
        subset = "" if is_beton else subset_command(Path(piece.train), piece.settings["subset"])
        how = subset or writing_command(Path(path))
        cure = f"write it ({how}), or say where it is in clusters.toml, [PROFILE.data]"
        if is_named:
            raise ValueError(f"{said}; {cure}")
        console.print(f"{said}, skipped; {cure}", highlight=False, soft_wrap=True)
    return [piece for piece in pieces if piece.evaluation not in missing]


def find_due(
    run: Path,
    pieces: list[Piece],
    config: PretrainConfig,
    overwrite: bool,
    console: Console,
    precision: Precision = "auto",
) -> list[Piece]:
    """The pieces without a result that still holds; says what is skipped, and why something is done again."""
    encoder = pieces[0].encoder if pieces else ""
    if not is_finished(run, encoder) and any(piece.subject in SUBJECTS for piece in pieces):
        return pieces  # what will be measured is not there yet

    @functools.cache
    def sha256(subject: str, source: str) -> str:
        return checksum(build_encoder(Path(source) if source else run, subject, config, encoder))

    @functools.cache
    def described(place: Place) -> dict[str, Any]:
        return data_identity.describe(place.data(config))

    due: list[Piece] = []
    for piece in pieces:
        title = f"{piece.evaluation}, {say_subject(piece.subject)}"
        result = results.read(run, piece.evaluation, piece.subject)
        if result is None or overwrite:
            due.append(piece)
            continue
        data, own = described(Place.of(piece)), sha256(piece.subject, piece.source)
        changed = results.changes(result, piece.module, piece.settings, data, own, precision)
        if changed:
            due.append(piece)
            console.print(f"{title}: again, because of {'; '.join(changed)}", highlight=False, soft_wrap=True)
        else:
            console.print(f"{title}: done, skipped", highlight=False, soft_wrap=True)
    return due


@dataclass(frozen=True)
class Place:
    """Where the data of pieces are, and whose settings bring them to the encoder."""

    train: str
    val: str
    source: str

    @classmethod
    def of(cls, piece: Piece) -> Place:
        """That of a piece."""
        return cls(piece.train, piece.val, piece.source)

    def data(self, config: PretrainConfig) -> DataConfig:
        """The run's data settings, or those of the other run, with these betons, of which every image counts."""
        own = read_run(Path(self.source))[0] if self.source else config
        return replace(own.data, train=self.train, val=self.val, on_bad="fail")
