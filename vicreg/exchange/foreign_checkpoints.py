"""Encoders that others trained: the form of a file, which of its tensors are the encoder's, what is left out by name.

It stands apart from the suite's own file (export.py) because here nothing may be taken for granted: files are read
without running code from them, and nothing is left out or filled in that is not named.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
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
from vicreg.model import branch

CLASSIFIERS = ("fc", "head", "heads", "head_dist", "classifier", "aux1", "aux2", "AuxLogits")
"""Where torchvision and timm keep classifiers, auxiliary ones included."""
ENCODER_PREFIXES = ("backbone.", "encoder_q.", "encoder.")
"""What methods call their encoder: VICReg, Barlow Twins, solo-learn, lightly, sthalles/SimCLR; MoCo; SimSiam, older
solo-learn, Spijkervet/SimCLR, yaox12/BYOL-PyTorch. Before it DistributedDataParallel says "module."."""
HEADS = ("projection_head", "prototypes", "projector", "projection", "predictor", "head")
"""What methods keep beside an encoder that has no name of its own, as SwAV's official program does."""
ENTRIES = ("model", "state_dict", "online_backbone", "online_network_state_dict")
"""Where a checkpoint has its state dict; the last two in yaox12/BYOL-PyTorch and sthalles/PyTorch-BYOL."""
_SAID: dict[str, Any] = {"small_images": bool, "image_size": int, "mean": list[float], "std": list[float]}
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
    tensors: dict[str, Tensor]
    """By the names in the encoder, and perhaps the classifier's."""
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


def put_into(encoder: nn.Module, weights: Weights, complaint: str) -> list[str]:
    """Copy the weights into the encoder; returns the names of the classifier's tensors, which are left out.

    Raises ValueError that begins with `complaint` when anything else is missing, too many or of another shape. Batch
    norm's counters of batches, which files from before PyTorch 0.4.1 lack, are set to zero: no result depends on them.
    """
    own = encoder.state_dict()
    dropped = [name for name in weights.tensors if name not in own and name.split(".")[0] in CLASSIFIERS]
    kept = {name: tensor for name, tensor in weights.tensors.items() if name not in dropped}
    kept |= {
        name: torch.zeros_like(tensor)
        for name, tensor in own.items()
        if name.endswith(".num_batches_tracked") and name not in kept
    }
    fill(encoder, kept, complaint)
    return dropped


def _read_safetensors(path: Path) -> Weights:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
    except SafetensorError as error:
        raise ValueError(f"{path} is no safetensors file, or it is damaged: {error}") from error
    if "encoder" not in metadata:
        return Weights("safetensors", tensors)
    try:
        said: dict[str, Any] = {name: parse_json(metadata[name], shape, name) for name, shape in _SAID.items()}
        padding = parse_json(metadata.get("stem_padding", str(ModelConfig.stem_padding)), int, "stem_padding")
        channels = parse_json(metadata.get("channels", "0"), int, "channels")
        small = said.pop("small_images")
        model = ModelConfig(metadata["encoder"], small_images=small, stem_padding=padding, channels=channels)
    except (KeyError, ValueError) as error:
        raise ValueError(f"{path} does not say how it is used ({error}); export it again") from error
    return Weights("safetensors of this suite", tensors, model=model, data=said)


def _own_encoder(content: Mapping[str, Any]) -> Weights:
    data = content["origin"].get("config", {}).get("data")
    model = branch(from_json(ModelConfig, content["model"]))
    return Weights("encoder.pt of this suite", _tensors(content["encoder"]), model=model, data=data)


def _tensors(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """A state dict; TypeError for what has something else in it."""
    odd = [str(name) for name, value in state.items() if not (isinstance(name, str) and isinstance(value, Tensor))]
    if odd:
        raise TypeError(f"no tensors under {listed(odd)}")
    return dict(state)


def _own_checkpoint(content: Mapping[str, Any]) -> Weights:
    state = _tensors(content["method"])
    mine = {name.removeprefix("encoder."): t for name, t in state.items() if name.startswith("encoder.")}
    others = [name for name in state if not name.startswith("encoder.")]
    return Weights(
        f"checkpoint of this suite, step {content['step']}",
        mine,
        (*_count_by_place(others), *sorted(content.keys() - {"method", "config", "step", "schema"})),
        branch(from_json(ModelConfig, content["config"]["model"])),
        content["config"]["data"],
    )


def _state_dict(path: Path, content: Mapping[str, Any]) -> Weights:
    """A state dict, alone or with company, whose names may have the prefixes of a method around the encoder."""
    form, left_out = "state dict", []
    for entry in ENTRIES:
        if isinstance(content.get(entry), Mapping):
            form = f"state dict in entry {entry}"
            left_out = [str(name) for name in content if name != entry]
            content = content[entry]
            break
    tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    left_out += [str(name) for name in content if name not in tensors]
    if not tensors:
        raise ValueError(f"{path} has no tensors, only {listed(left_out) or 'nothing'}; allowed: {_ALLOWED}")
    prefix = _encoder_prefix(tensors)
    beside = [name for name in tensors if not name.startswith(prefix)]
    inside = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    if prefix == "module.":  # an encoder without a name of its own, and a method's heads among its layers
        beside += [prefix + name for name in inside if name.split(".")[0] in HEADS]
        inside = {name: tensor for name, tensor in inside.items() if name.split(".")[0] not in HEADS}
    form = f"{form}, under {prefix}" if prefix else form
    left_out = _count_by_place([name.removeprefix("module.") for name in beside]) + left_out
    return Weights(form, {_current_name(name): tensor for name, tensor in _named(inside).items()}, tuple(left_out))


def _encoder_prefix(tensors: Mapping[str, Tensor]) -> str:
    """What stands before the names of the encoder's tensors; nothing where the file is an encoder's alone."""
    around = "module." if any(name.startswith("module.") for name in tensors) else ""
    for prefix in ENCODER_PREFIXES:
        stems = ("",) if prefix == "backbone." else ("conv1.weight", "0.weight")  # a ViT has an "encoder." inside
        if any(name.startswith(around + prefix + stem) for name in tensors for stem in stems):
            return around + prefix
    return around


def _named(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A ResNet that was put into a sequence of its parts has numbers for names (lightly, yaox12/BYOL-PyTorch)."""
    numbers = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}
    if not {"0.weight", "1.running_mean"} <= tensors.keys():
        return dict(tensors)
    parts = {name: name.split(".", 1) for name in tensors}
    return {f"{numbers.get(first, first)}.{rest}": tensors[name] for name, (first, rest) in parts.items()}


def _count_by_place(names: list[str]) -> list[str]:
    counts = Counter(name.split(".")[0] for name in names)
    return [f"{place} ({count} tensors)" for place, count in counts.items()]


def _current_name(name: str) -> str:
    """torchvision's DenseNet files still have the names of its first version, such as denselayer1.norm.1.weight."""
    return re.sub(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)", r"\1\2", name)
