"""The complete state of a run on disk: written whole or not at all, checked when read, the newest valid one wins.

A checkpoint is a folder `step_NNNNNNNN` with `state.pt` (model, optimizer, scaler, position) and `manifest.json` (size
and SHA-256 of it). Order, augmentation and the randomness inside the model are functions of seed, step and rank
(design: functions, not state), so there is no generator whose state would have to be kept.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import torch

log = logging.getLogger(__name__)

STATE_FILE = "state.pt"
MANIFEST_FILE = "manifest.json"


class CheckpointError(ValueError):
    """A checkpoint that is incomplete or damaged."""


def save(folder: Path, step: int, state: dict[str, Any], keep: int) -> Path:
    """Write `folder/step_NNNNNNNN` and remove all but the newest `keep` checkpoints; returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob(".step_*"):
        shutil.rmtree(stale)
    final = folder / f"step_{step:08d}"
    beside = folder / f".{final.name}.tmp"
    beside.mkdir()
    with (beside / STATE_FILE).open("wb") as file:
        torch.save(state, file)
        _flush(file.fileno())
    manifest = {"step": step, "size": (beside / STATE_FILE).stat().st_size, "sha256": _sha256(beside / STATE_FILE)}
    with (beside / MANIFEST_FILE).open("w") as text:
        json.dump(manifest, text)
        text.flush()
        _flush(text.fileno())
    if final.exists():
        shutil.rmtree(final)  # a damaged one, or that of a run that went on from an older one
    beside.rename(final)
    directory = os.open(folder, os.O_RDONLY)
    _flush(directory)
    os.close(directory)
    for old in list_checkpoints(folder)[:-keep]:
        shutil.rmtree(old)
    return final


def list_checkpoints(folder: Path) -> list[Path]:
    """All finished checkpoints, oldest first."""
    return sorted(folder.glob("step_????????"))


def load(path: Path) -> dict[str, Any]:
    """The state in a checkpoint, on the CPU; CheckpointError when it is not what was written."""
    try:
        manifest = json.loads((path / MANIFEST_FILE).read_text())
        size = (path / STATE_FILE).stat().st_size
    except (OSError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path} is incomplete: {error}") from error
    if size != manifest["size"]:
        raise CheckpointError(f"{path / STATE_FILE} has {size} bytes, written were {manifest['size']}")
    if _sha256(path / STATE_FILE) != manifest["sha256"]:
        raise CheckpointError(f"{path / STATE_FILE} is damaged: its SHA-256 is not the one that was written")
    state: dict[str, Any] = torch.load(path / STATE_FILE, map_location="cpu", weights_only=True)
    return state


def load_newest(folder: Path) -> dict[str, Any] | None:
    """The newest valid state, or None; damaged checkpoints are passed over and said so."""
    for path in reversed(list_checkpoints(folder)):
        try:
            return load(path)
        except CheckpointError as error:
            log.warning("%s; falling back to the checkpoint before it", error)
    return None


def _flush(descriptor: int) -> None:
    os.fsync(descriptor)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
