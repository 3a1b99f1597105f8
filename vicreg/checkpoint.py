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
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

log = logging.getLogger(__name__)

STATE_FILE = "state.pt"
MANIFEST_FILE = "manifest.json"


class CheckpointError(ValueError):
    """A checkpoint that is incomplete or damaged."""


def save(
    folder: Path, step: int, state: dict[str, Any], keep: int, require_owner: Callable[[], None] = lambda: None
) -> Path:
    """Write `folder/step_NNNNNNNN` and remove all but the newest `keep` checkpoints up to it; returns its path.

    Whatever goes wrong is raised as it is, and leaves nothing behind. ValueError for values that are not finite.
    `require_owner` raises where the folder is another process's: asked first, and again when all is written.
    """
    require_owner()
    require_finite(state)
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob(".step_*"):
        shutil.rmtree(stale)
    final = folder / f"step_{step:08d}"
    beside = folder / f".{final.name}.tmp"
    beside.mkdir()
    try:
        _write(beside, step, state)
        require_owner()
        if final.exists():
            shutil.rmtree(final)  # a damaged one, or that of a run that went on from an older one
        beside.rename(final)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise
    _flush_folder(folder)
    for old in [path for path in list_checkpoints(folder) if path.name <= final.name][:-keep]:
        shutil.rmtree(old)
    return final


def _write(folder: Path, step: int, state: dict[str, Any]) -> None:
    with (folder / STATE_FILE).open("wb") as file:
        torch.save(state, file)
        _flush(file.fileno())
    manifest = {"step": step, "size": (folder / STATE_FILE).stat().st_size, "sha256": _sha256(folder / STATE_FILE)}
    with (folder / MANIFEST_FILE).open("w") as text:
        json.dump(manifest, text)
        text.flush()
        _flush(text.fileno())
    _flush_folder(folder)


def require_finite(state: Any, name: str = "") -> None:
    """ValueError that names a tensor of a state which has values that are not finite."""
    if isinstance(state, dict):
        for key, value in state.items():
            require_finite(value, f"{name}.{key}" if name else str(key))
    elif isinstance(state, Tensor) and state.is_floating_point() and not bool(torch.isfinite(state).all()):
        raise ValueError(f"{name} has values that are not finite; the run has diverged, and is not saved like this")


def list_checkpoints(folder: Path) -> list[Path]:
    """All finished checkpoints, oldest first."""
    return sorted(folder.glob("step_????????"))


def load(path: Path) -> dict[str, Any]:
    """The state in a checkpoint, on the CPU; CheckpointError when it is not what was written."""
    try:
        manifest = json.loads((path / MANIFEST_FILE).read_text(encoding="utf-8"))
        written, sha256 = int(manifest["size"]), str(manifest["sha256"])
        size = (path / STATE_FILE).stat().st_size
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"{path} is incomplete: {error}") from error
    if size != written:
        raise CheckpointError(f"{path / STATE_FILE} has {size} bytes, written were {written}")
    if _sha256(path / STATE_FILE) != sha256:
        raise CheckpointError(f"{path / STATE_FILE} is damaged: its SHA-256 is not the one that was written")
    state: dict[str, Any] = torch.load(path / STATE_FILE, map_location="cpu", weights_only=True)
    return state


def find_newest(folder: Path) -> tuple[dict[str, Any] | None, list[Path]]:
    """The newest valid state, or None, and the damaged checkpoints that were passed over, each of which is said."""
    damaged: list[Path] = []
    for path in reversed(list_checkpoints(folder)):
        try:
            return load(path), damaged
        except CheckpointError as error:
            log.warning("%s; falling back to the checkpoint before it", error)
            damaged.append(path)
    return None, damaged


def load_newest(folder: Path) -> dict[str, Any] | None:
    """The newest valid state, or None; damaged checkpoints are passed over and said so."""
    return find_newest(folder)[0]


def set_aside(damaged: Sequence[Path]) -> None:
    """Take damaged checkpoints out of the row by name, so that they neither count nor are mistaken for good ones."""
    for path in damaged:
        aside = path.with_name(f"damaged_{path.name}")
        if aside.exists():
            shutil.rmtree(aside)
        path.rename(aside)
        log.warning("%s is set aside as %s; remove it when you have looked at it", path, aside.name)


def _flush(descriptor: int) -> None:
    os.fsync(descriptor)


def _flush_folder(folder: Path) -> None:
    directory = os.open(folder, os.O_RDONLY)
    try:
        _flush(directory)
    finally:
        os.close(directory)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
