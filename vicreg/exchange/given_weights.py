"""Weights that a network begins with, or is: a file's, or those that torchvision or timm publish; fitted to it.

A run that begins with some keeps them in its own folder, with where they come from, so that it never needs their file
again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from disk.whole_files import written
from vicreg import checkpoint
from vicreg.config import PUBLISHERS, DataConfig, ModelConfig
from vicreg.config_json import to_json
from vicreg.exchange import foreign_checkpoints
from vicreg.exchange.encoder_file import checksum, fill, load_without_code, untrained_encoder
from vicreg.exchange.foreign_checkpoints import Filled, Weights, put_into
from vicreg.exchange.foreign_names import Taken
from vicreg.model import Beginning, build_model, is_of_torchvision, usual_normalisation
from vicreg.one_branch import without_beginning
from vicreg.run_files import BEGINNING_FILE
from vicreg.schema import SCHEMA
from vicreg.stem import first_layer, mean_for_channels

PADDED = (
    "its names are solo-learn's, whose stem for small images has a padding of 2, which no shape tells (features would "
    "be a fifth off), so it was taken; {option} for the usual one"
)
_AS_IN_TRAINING = ("image_size", "mean", "std")
_ALLOWED = f"{BEGINNING_FILE} of a run folder"


@dataclass(frozen=True)
class Given:
    """Weights to begin with, ready for a network."""

    beginning: Beginning
    origin: dict[str, Any]
    """Source, SHA-256, form."""
    said: tuple[str, ...]
    """What there is to know of them, a sentence each."""
    weights: Weights
    """As they were read."""


def read_given(model: ModelConfig) -> Given:
    """What `model.weights` names, fitted to the encoder of this configuration, and to its expander where it has one.

    ValueError where it does not fit or cannot be had.
    """
    source = model.weights
    weights, sha256 = _published(model) if source in PUBLISHERS else _of_file(Path(source))
    plain = without_beginning(model)
    takes_any = model.weights_channels == "mean"
    try:
        encoder, _, filled = fit(weights, plain, source, model.weights_part, any_channels=takes_any)
    except ValueError as error:
        asks = "choose one" in str(error)
        cure = "--model.weights-part chooses" if asks else "--model.encoder names the network that it was made with"
        cure = "--model.weights-channels mean brings them to the images'" if isinstance(error, OtherChannels) else cure
        raise ValueError(f"{error}\n{cure}") from error
    taken = filled.taken
    said = [f"{source}: {weights.form}{taken.place.said()}, {filled.num_tensors} tensors of {model.encoder}"]
    said += [taken.note + "; --model.weights-part chooses"] if taken.note else []
    said += [filled.channels] if filled.channels else []
    expander, about = _expander(plain, taken)
    said += [about] if about else []
    if model.stem_padding == 1 and is_padded(taken, model):
        said.append(
            "its names are solo-learn's, whose stem for small images has a padding of 2: --model.stem-padding 2"
        )
    origin: dict[str, Any] = {
        "source": str(Path(source).absolute()) if source not in PUBLISHERS else source,
        "form": weights.form,
    }
    origin |= {"sha256": sha256 or checksum(encoder), "part": taken.place.path, "expander": bool(expander)}
    origin |= {"channels": filled.channels} if filled.channels else {}
    return Given(Beginning(dict(encoder.state_dict()), expander), origin, tuple(said), weights)


class OtherChannels(ValueError):
    """Weights that would fit, were the images' channels as many as theirs."""


def fit(
    weights: Weights,
    model: ModelConfig,
    source: str,
    part: str = "",
    any_stem: bool = False,
    any_channels: bool = False,
) -> tuple[nn.Module, ModelConfig, Filled]:
    """The encoder with these weights, and its configuration: with the other stem, where that fits and `any_stem`.

    Weights for another number of channels are brought to the model's (vicreg.stem.mean_for_channels), if
    `any_channels`. ValueError that says what differs, and which other stem would fit; OtherChannels where only they do.
    """
    try:
        return _fit_stem(weights, model, source, part, any_stem)
    except ValueError as error:
        theirs = weights.model.channels if weights.model else 0
        if theirs == model.channels:
            raise
        try:
            encoder, made, filled = _fit_stem(weights, replace(model, channels=theirs), source, part, any_stem)
        except ValueError:
            raise error from None
    here, there = model.in_channels, made.in_channels
    if not any_channels:
        raise OtherChannels(f"{source} has weights for images of {there} channels, and these have {here}")
    made = replace(made, channels=model.channels)
    wider = untrained_encoder(made, seed=0)
    name = f"{first_layer(wider)[0]}.weight"
    state = encoder.state_dict()
    fill(wider, state | {name: mean_for_channels(state[name], here)}, source)
    said = f"{name} for {there} channels became one for {here}: for each their mean, times {there}/{here}"
    return wider, made, replace(filled, channels=said)


def _fit_stem(
    weights: Weights, model: ModelConfig, source: str, part: str, any_stem: bool
) -> tuple[nn.Module, ModelConfig, Filled]:
    encoder = untrained_encoder(model, seed=0)
    try:
        return encoder, model, put_into(encoder, weights, f"{source} does not fit {model.encoder}", part)
    except ValueError as error:
        other = replace(model, small_images=not model.small_images)
        try:
            encoder = untrained_encoder(other, seed=0)
            filled = put_into(encoder, weights, source, part)
        except ValueError:
            raise error from None
        if any_stem:
            return encoder, other, filled
        stem = f"small_images {other.small_images}, the stem for {'small' if other.small_images else 'large'} images"
        raise ValueError(f"{error}\nit fits with {stem}") from error


def is_padded(taken: Taken, model: ModelConfig) -> bool:
    """Whether this looks like a network of solo-learn's for small images."""
    beside = {place.split(" ")[0] for place in taken.left_out}
    return model.small_images and taken.place.prefix.endswith("backbone.") and {"classifier", "projector"} <= beside


def _expander(model: ModelConfig, taken: Taken) -> tuple[dict[str, Tensor], str]:
    """The expander's weights where the file has one that fits, and what there is to say of it."""
    if not taken.expander:
        return {}, ""
    _, expander = build_model(model)
    own = expander.state_dict()
    given = dict(taken.expander)
    given |= {n: torch.zeros_like(t) for n, t in own.items() if n.endswith("num_batches_tracked") and n not in given}
    try:
        fill(expander, given, "")
    except ValueError:
        return {}, f"its expander is another than {model.expander}, so that begins with random weights"
    return dict(expander.state_dict()), "with its expander"


def other_input(weights: Weights, model: ModelConfig, data: DataConfig) -> list[str]:
    """Where the encoder will see other images than in training, with the flags that change it."""
    here = to_json(data)
    if weights.data:
        there = {name: weights.data[name] for name in _AS_IN_TRAINING}
        who = "it was trained with"
    else:
        usual = usual_normalisation(model.encoder)
        there = {name: list(values) for name, values in zip(("mean", "std"), usual or (), strict=False)}
        who = f"published weights of {model.encoder} expect"
    flags = [
        f"--data.{name.replace('_', '-')} " + (" ".join(map(str, value)) if isinstance(value, list) else str(value))
        for name, value in there.items()
        if value != here[name] and not (isinstance(value, list) and len(value) != len(here[name]))
    ]
    return [f"{who} other images than this run has:  {' '.join(flags)}"] if flags else []


def _of_file(path: Path) -> tuple[Weights, str]:
    return foreign_checkpoints.read(path), sha256_of(path)


def _published(model: ModelConfig) -> tuple[Weights, str]:
    """The weights that torchvision or timm publish of the encoder of that name; OSError where they cannot be had."""
    publisher, name = model.weights, model.encoder
    try:
        if publisher == "torchvision":
            import torchvision.models

            known = torchvision.models.get_model_weights(name) if is_of_torchvision(name) else None
            if known is None:
                raise ValueError(f"torchvision publishes no weights of {name}; allowed: a file, or another encoder")
            state: Mapping[str, Tensor] = known.DEFAULT.get_state_dict(progress=False, weights_only=True)
        else:
            import timm

            if not timm.is_model_pretrained(name):
                raise ValueError(f"timm publishes no weights of {name}; allowed: a file, or another encoder")
            state = timm.create_model(name, pretrained=True, num_classes=0).state_dict()
    except OSError as error:
        raise ValueError(
            f"the weights of {name} cannot be fetched from {publisher} ({error}); fetch them where there is a network, "
            "and give their file with --model.weights"
        ) from error
    return Weights(f"weights of {publisher}", {"": dict(state)}), ""


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, or of a checkpoint folder's state."""
    file = path / checkpoint.STATE_FILE if path.is_dir() else path
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def keep(run: Path, given: Given) -> None:
    """Write down what a run begins with, complete or not at all; ValueError for values that are not finite."""
    state = {"encoder": given.beginning.encoder, "expander": given.beginning.expander}
    state = {kind: {name: tensor.contiguous() for name, tensor in part.items()} for kind, part in state.items()}
    checkpoint.require_finite(state, given.origin["source"])
    run.mkdir(parents=True, exist_ok=True)
    with written(run / BEGINNING_FILE, checkpoint.num_bytes(state)) as file:
        torch.save({"schema": SCHEMA, **state, "origin": given.origin}, file)


def beginning_of(run: Path) -> Beginning:
    """What a run begins with; ValueError where that is not there or damaged."""
    path = run / BEGINNING_FILE
    if not path.is_file():
        raise ValueError(f"{path} is not there, from which the run begins; start it anew in another folder")
    content = load_without_code(path, _ALLOWED)
    parts = [content.get(kind) if isinstance(content, dict) else None for kind in ("encoder", "expander")]
    if not all(isinstance(part, dict) and all(isinstance(t, Tensor) for t in part.values()) for part in parts):
        raise ValueError(f"{path} is damaged; start the run anew in another folder")
    encoder, expander = parts
    assert encoder is not None
    return Beginning(encoder, expander or {})
