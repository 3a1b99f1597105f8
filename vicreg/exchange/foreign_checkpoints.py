"""Encoders that others trained: the form of a file, what it holds, and its tensors put into an encoder.

It stands apart from the suite's own file (encoder_file.py) because here nothing may be taken for granted: files are
read without running code from them, and nothing is left out or filled in that is not named.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from border.documents import parse_json
from vicreg import checkpoint
from vicreg.config import ModelConfig
from vicreg.config_json import from_json
from vicreg.exchange.encoder_file import fill, listed, load_without_code
from vicreg.exchange.foreign_names import CLASSIFIERS, Taken, take
from vicreg.one_branch import branch

_SAID: dict[str, Any] = {"small_images": bool, "image_size": int, "mean": list[float], "std": list[float]}
MAX_DEPTH = 4  # of entries in entries
_ALLOWED = (
    "a state dict or a checkpoint with one (such as entry model or state_dict) in torch's format or .safetensors, "
    "encoder.pt of a run, or a checkpoint folder of a run (RUN/checkpoints/step_N)"
)


def _not_called(*_arguments: Any) -> None:
    """Stands where the official optimizer's state names a function, and does nothing."""


_STAND_INS = tuple(
    # In checkpoints of facebookresearch/vicreg and barlowtwins, started by hand or by its submitit script: what LARS
    # asks whether a parameter is left out of weight decay and adaptation.
    (_not_called, f"{module}.exclude_bias_and_norm")
    for module in ("__main__", "main_vicreg", "main")
)


@dataclass(frozen=True)
class Weights:
    """What a file says of an encoder."""

    form: str
    """What kind of file it is, in words."""
    entries: dict[str, dict[str, Tensor]]
    """The tensors of each entry by their names in the file; "" for a file that is its own entry."""
    left_out: tuple[str, ...] = ()
    """What else is in the file."""
    model: ModelConfig | None = None
    """The encoder, if the file names it."""
    data: dict[str, Any] | None = None
    """How images reached it, if the file says so: a `DataConfig` in JSON form, or its part of that."""


def read(path: Path) -> Weights:
    """Recognise a file and read it without running code from it; ValueError with the cure for what cannot be read."""
    if not path.exists():
        raise ValueError(f"{path}: no such file")
    if path.name == checkpoint.STATE_FILE:
        path = path.parent
    if path.is_dir() and not (path / checkpoint.STATE_FILE).exists():
        raise ValueError(f"{path} is a folder, allowed: {_ALLOWED}")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    content = checkpoint.load(path) if path.is_dir() else load_without_code(path, _ALLOWED, _STAND_INS)
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} holds a {type(content).__name__}, allowed: {_ALLOWED}")
    if not {"encoder", "model", "origin"} <= content.keys() and not {"method", "config", "step"} <= content.keys():
        return _state_dict(path, content)
    try:
        return _own_encoder(content) if "encoder" in content else _own_checkpoint(content)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged ({error!r}); take another of the run's files") from error


@dataclass(frozen=True)
class Filled:
    """What was put into an encoder."""

    taken: Taken
    dropped: tuple[str, ...]
    """The classifier's tensors, which are left out."""
    channels: str = ""
    """What became of weights for another number of channels; empty where there were none."""

    @property
    def num_tensors(self) -> int:
        """Of the encoder, in the file."""
        return len(self.taken.tensors) - len(self.dropped)


def put_into(encoder: nn.Module, weights: Weights, complaint: str, part: str = "") -> Filled:
    """Copy the weights into the encoder, whatever stands before their names.

    part: which network, where the file holds several; see `take`. Raises ValueError that begins with `complaint` when
    anything but a classifier is missing, too many or of another shape. Batch norm's counters of batches, which files
    from before PyTorch 0.4.1 lack, are set to zero: no result depends on them.
    """
    own = encoder.state_dict()
    try:
        taken = take(weights.entries, own, part)
    except ValueError as error:
        raise ValueError(f"{complaint}: {error}") from error
    dropped = tuple(name for name in taken.tensors if name not in own and name.split(".")[0] in CLASSIFIERS)
    kept = {name: tensor for name, tensor in taken.tensors.items() if name not in dropped}
    if not kept.keys() & own.keys():
        names = [name for entry in weights.entries.values() for name in entry]
        raise ValueError(
            f"{complaint}: under no prefix has it names such as {listed(list(own)[:2])}; it has {listed(names)}"
        )
    kept |= {
        name: torch.zeros_like(tensor)
        for name, tensor in own.items()
        if name.endswith(".num_batches_tracked") and name not in kept
    }
    fill(encoder, kept, f"{complaint}{taken.place.said()}")
    return Filled(taken, dropped)


def _read_safetensors(path: Path) -> Weights:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
    except SafetensorError as error:
        raise ValueError(f"{path} is no safetensors file, or it is damaged: {error}") from error
    if "encoder" not in metadata:
        return Weights("safetensors", {"": tensors})
    try:
        said: dict[str, Any] = {name: parse_json(metadata[name], shape, name) for name, shape in _SAID.items()}
        padding = parse_json(metadata.get("stem_padding", str(ModelConfig.stem_padding)), int, "stem_padding")
        channels = parse_json(metadata.get("channels", "0"), int, "channels")
        small = said.pop("small_images")
        model = ModelConfig(metadata["encoder"], small_images=small, stem_padding=padding, channels=channels)
    except (KeyError, ValueError) as error:
        raise ValueError(f"{path} does not say how it is used ({error}); export it again") from error
    return Weights("safetensors of this suite", {"": tensors}, model=model, data=said)


def _own_encoder(content: Mapping[str, Any]) -> Weights:
    data = content["origin"].get("config", {}).get("data")
    model = branch(from_json(ModelConfig, content["model"]))
    return Weights("encoder.pt of this suite", {"": _tensors(content["encoder"])}, model=model, data=data)


def _tensors(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """A state dict; TypeError for what has something else in it."""
    odd = [str(name) for name, value in state.items() if not (isinstance(name, str) and isinstance(value, Tensor))]
    if odd:
        raise TypeError(f"no tensors under {listed(odd)}")
    return dict(state)


def _own_checkpoint(content: Mapping[str, Any]) -> Weights:
    """The first encoder and the expander behind it; a method's other networks are left out."""
    state = _tensors(content["method"])
    mine = {name: tensor for name, tensor in state.items() if name.startswith(("encoder.", "expander."))}
    others = dict.fromkeys(name.split(".")[0] for name in state if name not in mine)
    return Weights(
        f"checkpoint of this suite, step {content['step']}",
        {"": mine},
        (*others, *sorted(content.keys() - {"method", "config", "step", "schema"})),
        branch(from_json(ModelConfig, content["config"]["model"])),
        content["config"]["data"],
    )


def _state_dict(path: Path, content: Mapping[str, Any]) -> Weights:
    """A state dict, alone or with company, in whatever entries."""
    entries = dict(_entries(content, ""))
    roots = {entry.split(".")[0] for entry in entries}
    left_out = [str(name) for name, value in content.items() if not isinstance(value, Tensor) and name not in roots]
    if not entries:
        raise ValueError(f"{path} has no tensors, only {listed(left_out) or 'nothing'}; allowed: {_ALLOWED}")
    return Weights("state dict", entries, tuple(left_out))


def _entries(content: Mapping[Any, Any], path: str, depth: int = 0) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Every mapping with named tensors; optimizers number theirs."""
    tensors = {name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, Tensor)}
    if tensors:
        yield path, tensors
    for name, value in content.items():
        if isinstance(name, str) and isinstance(value, Mapping) and depth < MAX_DEPTH:
            yield from _entries(value, f"{path}.{name}" if path else name, depth + 1)
