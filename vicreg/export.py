"""A trained encoder in a file of its own, with what is needed to build it again."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vicreg import checkpoint
from vicreg.config import ModelConfig, from_json, to_json
from vicreg.model import build_encoder

ENCODER_FILE = "encoder.pt"  # in a run folder, once the run is finished


def save_encoder(path: Path, encoder: nn.Module, config: ModelConfig, origin: dict[str, Any]) -> None:
    """Write the encoder's weights, its configuration and where it comes from, complete or not at all."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in encoder.state_dict().items()}
    beside = path.with_name(f".{path.name}.tmp")
    with beside.open("wb") as file:
        torch.save({"encoder": state, "model": to_json(config), "origin": origin}, file)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def load_encoder(path: Path) -> nn.Module:
    """The encoder of a file that `save_encoder` wrote, in eval mode on the CPU, every name and shape as written.

    Raises ValueError when the file is not such a file or its weights do not fit.
    """
    content = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(content, dict) or not {"encoder", "model"} <= content.keys():
        raise ValueError(f"{path} is not an encoder of this suite, allowed: encoder.pt of a run folder")
    encoder = untrained_encoder(from_json(ModelConfig, content["model"]), seed=0)
    try:
        encoder.load_state_dict(content["encoder"])
    except RuntimeError as error:
        raise ValueError(f"{path} does not fit its own description: {error}") from error
    return encoder


def encoder_of(path: Path, config: ModelConfig) -> nn.Module:
    """The encoder in a checkpoint of a run, in eval mode on the CPU; ValueError when the weights do not fit."""
    weights: dict[str, Any] = checkpoint.load(path)["method"]
    encoder = untrained_encoder(config, seed=0)
    prefix = "encoder."
    own = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
    try:
        encoder.load_state_dict(own)
    except RuntimeError as error:
        raise ValueError(f"{path} does not fit the run's encoder, {config.encoder}: {error}") from error
    return encoder.float()


def untrained_encoder(config: ModelConfig, seed: int) -> nn.Module:
    """The same encoder with random weights that depend on the seed alone, in eval mode on the CPU."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_encoder(config.encoder, config.small_images).eval()


def checksum(encoder: nn.Module) -> str:
    """SHA-256 over an encoder's names and weights, to tell whether a result belongs to it."""
    digest = hashlib.sha256()
    for name, tensor in sorted(encoder.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
