"""Import: an encoder that was trained elsewhere, as a run folder that jobs/eval_all.py measures like any other."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from border.terminal import Terminal
from disk.whole_files import partial_path, publish
from jobs.options.import_encoder import Command
from jobs.planning import hints, recipes
from jobs.planning.cli import read_run_file, show_commands, show_summary
from jobs.planning.run_folder import is_finished, write_config
from jobs.planning.subjects import open_residuals
from vicreg.config import ModelConfig, PretrainConfig, without_colours
from vicreg.config_json import to_json
from vicreg.exchange import foreign_checkpoints
from vicreg.exchange.encoder_file import listed, save_encoder, untrained_encoder
from vicreg.exchange.given_weights import PADDED, fit, is_padded, other_input, sha256_of
from vicreg.model import num_parameters
from vicreg.one_branch import branch
from vicreg.run_files import ENCODER_FILE

STEM = ("encoder", "small_images", "stem_padding")


@dataclass(frozen=True)
class Import:
    """An encoder ready to be written, and what there is to say of it."""

    encoder: nn.Module
    model: ModelConfig
    origin: dict[str, Any]
    said: list[tuple[str, str]]


def carry_out(command: Command) -> int:
    """Read, check, write the run folder, say what was done; returns the exit code."""
    console = Terminal()
    hints.remember(command.cluster)
    config = recipes.recipe(command.recipe).pretrain
    found = untrained(command, config) if command.random else trained(command, config)
    views = map(without_colours, config.views) if found.model.channels else config.views
    config = replace(config, data=command.data, model=found.model, views=tuple(views))
    num_features = require_features(found.encoder, config)
    is_new = write_run(command.run, command.recipe, config, found)
    size = f"{num_parameters(found.encoder) / 1e6:.1f} M parameters, {num_features:,} features"
    said = [
        *found.said,
        ("encoder", f"{config.model.encoder}: {size} of images of {config.data.image_size} px"),
        ("written" if is_new else "is there", f"{command.run}, recipe {command.recipe}"),
    ]
    show_summary(console, said)
    show_commands(console, "next", [hints.eval_all(command.run)])
    return 0


def untrained(command: Command, config: PretrainConfig) -> Import:
    """The random encoder that the evaluations of this recipe take as their baseline."""
    model = chosen_model(command, config, None)
    encoder = open_residuals(untrained_encoder(model, config.train.seed))
    origin = {"form": "random weights", "seed": config.train.seed}
    return Import(encoder, model, origin, [("made", f"random weights from seed {config.train.seed}")])


def trained(command: Command, config: PretrainConfig) -> Import:
    """The encoder in the source; ValueError where it is not exactly that."""
    assert command.source is not None
    weights = foreign_checkpoints.read(command.source)
    model = chosen_model(command, config, weights.model)
    is_open = weights.model is None and command.small_images is None
    try:
        encoder, model, filled = fit(
            weights, model, str(command.source), command.part, is_open, any_channels=command.channels is not None
        )
    except ValueError as error:
        cure = "--part chooses" if "choose one" in str(error) else "--encoder names the network that it was made with"
        raise ValueError(f"{error}\n{cure}") from error
    said = [
        (
            "read",
            f"{command.source}: {weights.form}{filled.taken.place.said()}, {filled.num_tensors} tensors of the encoder",
        )
    ]
    if filled.dropped:
        said.append(("dropped", f"the classifier: {listed(list(filled.dropped))}"))
    if left_out := [*filled.taken.left_out, *weights.left_out]:
        said.append(("left out", listed(left_out)))
    if filled.taken.note:
        said.append(("note", f"{filled.taken.note}; --part chooses"))
    if weights.model is None and command.stem_padding is None and is_padded(filled.taken, model):
        model = replace(model, stem_padding=2)
        encoder, model, filled = fit(
            weights, model, str(command.source), command.part, any_channels=command.channels is not None
        )
        said.append(("note", PADDED.format(option="--stem-padding 1")))
    origin = {"source": str(command.source.absolute()), "sha256": sha256_of(command.source), "form": weights.form}
    if filled.channels:
        said.append(("note", filled.channels))
        origin["channels"] = filled.channels
    said += [("note", note) for note in other_input(weights, model, command.data)]
    return Import(encoder, model, origin, said)


def chosen_model(command: Command, config: PretrainConfig, said_by_file: ModelConfig | None) -> ModelConfig:
    """The encoder's name and stem: as the command line says, else the file, else the recipe.

    ValueError where command line and file disagree.
    """
    model = said_by_file or branch(config.model)
    changed: dict[str, Any] = {}
    if command.encoder:
        changed["encoder"] = command.encoder
        if command.encoder != model.encoder:
            changed["small_images"] = False
    if command.small_images is not None:
        changed["small_images"] = command.small_images
    if command.stem_padding is not None:
        changed["stem_padding"] = command.stem_padding
    if command.channels is not None:
        changed["channels"] = command.channels
    chosen = replace(model, **changed)
    if said_by_file and any(getattr(chosen, name) != getattr(said_by_file, name) for name in STEM):
        here, there = (", ".join(f"{name} {getattr(one, name)}" for name in STEM) for one in (chosen, said_by_file))
        raise ValueError(f"the command line says {here}, but {command.source} says {there}; leave the flags out")
    return chosen


@torch.no_grad()
def require_features(encoder: nn.Module, config: PretrainConfig) -> int:
    """Number of features; ValueError where the encoder does not take the run's images or they are not finite."""
    size = config.data.image_size
    try:
        features = encoder(torch.zeros(1, config.model.in_channels, size, size))
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"{config.model.encoder} does not take images of {size} px ({error}); choose with  --data.image-size"
        ) from error
    if not bool(torch.isfinite(features).all()):
        raise ValueError("the encoder's features are not finite: the file is damaged or its training had diverged")
    return int(features.shape[1])


def write_run(run: Path, recipe: str, config: PretrainConfig, found: Import) -> bool:
    """Make the run folder, complete or not at all; False where it is there already, ValueError where another one is."""
    if run.exists() and (not run.is_dir() or any(run.iterdir())):
        try:
            there: Mapping[str, Any] = read_run_file(run)
        except (OSError, ValueError):
            there = {}
        same = _weights_of(there.get("imported", {})) == _weights_of(found.origin)
        same = same and there.get("pretrain") == to_json(config)
        if same and is_finished(run):
            return False
        raise ValueError(f"{run} holds something else already; choose another folder with --run")
    beside = partial_path(run)
    if beside.exists():
        shutil.rmtree(beside)
    beside.mkdir(parents=True)
    write_config(beside, recipe, config, imported=found.origin)
    save_encoder(beside / ENCODER_FILE, found.encoder, config.model, {"imported": found.origin})
    publish(beside, run)
    return True


def _weights_of(origin: dict[str, Any]) -> tuple[Any, Any]:
    """What decides the weights: the file's content, wherever it lay, or the seed."""
    return origin.get("sha256"), origin.get("seed")
