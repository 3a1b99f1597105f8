"""A trained encoder in a file of its own, with what is needed to build it again."""

from __future__ import annotations

import hashlib
import pickle
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from disk.whole_files import written
from vicreg import checkpoint
from vicreg.config import ModelConfig
from vicreg.config_json import from_json, to_json
from vicreg.model import encoder_by_config
from vicreg.schema import SCHEMA

NUM_NAMES_SHOWN = 10
_ALLOWED = "encoder.pt of a run folder"


def save_encoder(path: Path, encoder: nn.Module, config: ModelConfig, origin: dict[str, Any]) -> None:
    """Write the encoder's weights, its configuration and where it comes from, complete or not at all."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in encoder.state_dict().items()}
    checkpoint.require_finite(state, "encoder")
    with written(path, checkpoint.num_bytes(state)) as file:
        torch.save({"schema": SCHEMA, "encoder": state, "model": to_json(config), "origin": origin}, file)


def load_encoder(path: Path) -> nn.Module:
    """The encoder of a file that `save_encoder` wrote, in eval mode on the CPU, every name and shape as written.

    Raises ValueError when the file is not such a file or its weights do not fit.
    """
    content = load_without_code(path, _ALLOWED)
    if not isinstance(content, dict) or not {"encoder", "model"} <= content.keys():
        raise ValueError(f"{path} is not an encoder of this suite, allowed: {_ALLOWED}")
    try:
        encoder = untrained_encoder(from_json(ModelConfig, content["model"]), seed=0)
        state = dict(content["encoder"])
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} does not describe an encoder ({error}), allowed: {_ALLOWED}") from error
    if not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise ValueError(f"{path} holds something else than tensors, allowed: {_ALLOWED}")
    fill(encoder, state, f"{path} does not fit its own description")
    return encoder


def load_without_code(path: Path, allowed: str, stand_ins: Sequence[tuple[Callable[..., Any], str]] = ()) -> Any:
    """The content of a file of torch's, on the CPU, read without running code from it.

    `stand_ins` are functions of our own that take the place of those that a file names. Raises ValueError with what is
    allowed for what is no such file, and with the cure for what needs code.
    """
    try:
        with torch.serialization.safe_globals(list(stand_ins)):
            return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # on what is not its own, torch's reader raises whatever it runs into
        code = re.search(r"GLOBAL (\S+)", str(error)) if isinstance(error, pickle.UnpicklingError) else None
        if not code:
            raise ValueError(f"{path} is no file of torch's, or it is damaged; allowed: {allowed}") from error
        raise ValueError(
            f"{path} cannot be read without running code from it (it asks for {code[1]}), and that code could do "
            "anything. If you trust whoever made it, save its tensors alone in a file and take that, such as\n"
            f"  import torch; content = torch.load({str(path)!r}, weights_only=False)\n"
            "  torch.save(content['model'], 'weights.pth')  # or content.state_dict(), as the content may be"
        ) from error


@torch.no_grad()
def fill(encoder: nn.Module, weights: Mapping[str, Tensor], complaint: str) -> None:
    """Copy weights into an encoder; every name and shape must be the same.

    Raises ValueError that begins with `complaint` and lists the differences. (`load_state_dict` is left aside because
    some networks, such as torchvision's MNASNet, change themselves there to fit older files.)
    """
    own = encoder.state_dict()
    differences = {
        "missing": [name for name in own if name not in weights],
        "unexpected": [name for name in weights if name not in own],
        "of another shape": [
            f"{name} is {tuple(weights[name].shape)}, needed {tuple(own[name].shape)}"
            for name in own
            if name in weights and weights[name].shape != own[name].shape
        ],
    }
    lines = [f"{kind} ({len(names)}): {listed(names)}" for kind, names in differences.items() if names]
    if lines:
        raise ValueError("\n  ".join([f"{complaint}:", *lines]))
    for name, tensor in own.items():
        tensor.copy_(weights[name])


def listed(names: list[str]) -> str:
    """The first names in print."""
    return ", ".join(names[:NUM_NAMES_SHOWN]) + (", ..." if len(names) > NUM_NAMES_SHOWN else "")


def encoder_of(path: Path, config: ModelConfig, name: str = "") -> nn.Module:
    """An encoder in a checkpoint of a run, in eval mode on the CPU; ValueError when the weights do not fit `config`."""
    prefix = f"encoder_{name}." if name else "encoder."  # as `Method.encoders` has it
    weights: dict[str, Tensor] = checkpoint.load(path)["method"]
    encoder = untrained_encoder(config, seed=0)
    own = {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
    fill(encoder, own, f"{path} does not fit the run's encoder, {config.encoder}")
    return encoder


def untrained_encoder(config: ModelConfig, seed: int) -> nn.Module:
    """The same encoder with random weights that depend on the seed alone, in eval mode on the CPU."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return encoder_by_config(config).eval()


def checksum(encoder: nn.Module) -> str:
    """SHA-256 over an encoder's names and weights, to tell whether a result belongs to it."""
    digest = hashlib.sha256()
    for name, tensor in sorted(encoder.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
