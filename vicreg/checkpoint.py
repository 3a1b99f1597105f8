"""The complete state of a run on disk: written whole or not at all, checked when read, the newest valid one wins.

A checkpoint is a folder `step_NNNNNNNN` with `state.pt` (model, optimizer, scaler, position) and `manifest.json` (size
and SHA-256 of it). Order, augmentation and the randomness inside the model are functions of seed, step and rank
(design: functions, not state), so there is no generator whose state would have to be kept.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import shutil
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import torch
from torch import Tensor

from border.documents import read_json
from border.text import visible
from disk.whole_files import partial_path, publish, room_for, write_text

log = logging.getLogger(__name__)

STATE_FILE = "state.pt"
MANIFEST_FILE = "manifest.json"


class CheckpointError(ValueError):
    """A checkpoint that is incomplete or damaged."""


def save(
    folder: Path,
    step: int,
    state: dict[str, Any],
    keep: int,
    require_owner: Callable[[], None] = lambda: None,
    measured: Mapping[str, float] | None = None,
    keep_best: str = "",
) -> Path:
    """Write `folder/step_NNNNNNNN` and remove all but the newest `keep` checkpoints up to it; returns its path.

    `measured`: what it was worth online, which its manifest keeps; by the measure `keep_best` the best one stays too.

    Whatever goes wrong is raised, a full disk with what is needed and free, and leaves nothing behind. ValueError for
    values that are not finite.
    `require_owner` raises where the folder is another process's: asked first, and again when all is written.
    """
    require_owner()
    require_finite(state)
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob(".step_*"):
        shutil.rmtree(stale)
    final = folder / f"step_{step:08d}"
    beside = partial_path(final)
    with room_for(final, num_bytes(state), "choose another run folder"):
        try:
            beside.mkdir()
            with (beside / STATE_FILE).open("wb") as file:
                torch.save(state, file)
            _write_manifest(beside, step, measured)
            require_owner()
            if final.exists():
                shutil.rmtree(final)  # a damaged one, or that of a run that went on from an older one
            publish(beside, final)
        except BaseException:
            shutil.rmtree(beside, ignore_errors=True)
            raise
    spared = find_best(folder, keep_best)[0]
    for old in [path for path in list_checkpoints(folder) if path.name <= final.name][:-keep]:
        if old != spared:
            shutil.rmtree(old)
    return final


def num_bytes(state: Any) -> int:
    """Of all tensors in a state."""
    if isinstance(state, Tensor):
        return state.nbytes
    parts = state.values() if isinstance(state, dict) else state if isinstance(state, list | tuple) else ()
    return sum(map(num_bytes, parts))


def find_best(folder: Path, measure: str) -> tuple[Path | None, float]:
    """The first of the checkpoints with the highest value of a measure, by their manifests; None where none has it."""
    best, highest = None, -math.inf
    for path in list_checkpoints(folder) if measure else ():
        try:
            value = read_json(path / MANIFEST_FILE, Manifest, "it is passed over").get("measured", {}).get(measure)
        except (OSError, ValueError):
            continue
        if value is not None and value > highest:
            best, highest = path, value
    return best, highest


def _write_manifest(folder: Path, step: int, measured: Mapping[str, float] | None = None) -> None:
    """Beside a state, what it is known by."""
    path = folder / STATE_FILE
    manifest: dict[str, Any] = {"step": step, "size": path.stat().st_size, "sha256": _sha256(path)}
    if measured:
        manifest["measured"] = dict(measured)
    write_text(folder / MANIFEST_FILE, json.dumps(manifest))


def require_finite(state: Any, name: str = "") -> None:
    """ValueError that names a tensor of a state which has values that are not finite."""
    if isinstance(state, dict):
        for key, value in state.items():
            require_finite(value, f"{name}.{key}" if name else str(key))
    elif isinstance(state, Tensor) and state.is_floating_point() and not bool(torch.isfinite(state).all()):
        raise ValueError(f"{name} has values that are not finite; the run has diverged, and is not saved like this")


class Manifest(TypedDict):
    """What is written of a state beside it."""

    size: int
    sha256: str
    measured: NotRequired[dict[str, float]]


def list_checkpoints(folder: Path) -> list[Path]:
    """All finished checkpoints, oldest first."""
    return sorted(folder.glob("step_????????"))


def load(path: Path) -> dict[str, Any]:
    """The state in a checkpoint, on the CPU; CheckpointError when it is not what was written.

    A manifest that cannot be read is written again where the state itself, whose parts have checksums too, is whole.
    """
    try:
        manifest = read_json(path / MANIFEST_FILE, Manifest, "its state may be whole")
    except (OSError, ValueError) as error:
        return _load_without_manifest(path, str(error))
    size, sha256 = manifest["size"], manifest["sha256"]
    try:
        found = (path / STATE_FILE).stat().st_size
        if found != size:
            raise CheckpointError(f"{path / STATE_FILE} has {found} bytes, written were {size}")
        if _sha256(path / STATE_FILE) != sha256:
            raise CheckpointError(f"{path / STATE_FILE} is damaged: its SHA-256 is not the one that was written")
    except OSError as error:
        raise CheckpointError(f"{path} is incomplete: {error}") from error
    return _load_state(path)


def _load_state(path: Path) -> dict[str, Any]:
    try:
        state = torch.load(path / STATE_FILE, map_location="cpu", weights_only=True)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # on what is not its own, torch's reader raises whatever it runs into
        raise CheckpointError(f"{path / STATE_FILE} holds no state: {visible(error)[:200]}") from error
    if not isinstance(state, dict):
        raise CheckpointError(f"{path / STATE_FILE} holds a {type(state).__name__}, and no state")
    return state


def _load_without_manifest(path: Path, why: str) -> dict[str, Any]:
    """The state of a checkpoint whose manifest is lost, by the CRC-32 that torch's files have of each part."""
    try:
        if not is_whole(path / STATE_FILE):
            raise CheckpointError(f"{why}, and {STATE_FILE} is damaged")
        state = _load_state(path)
        if path.name != f"step_{state['step']:08d}":
            raise CheckpointError(f"{why}, and {STATE_FILE} is that of step {state['step']}")
    except CheckpointError:
        raise
    except Exception as error:  # torch's reader raises whatever it runs into
        raise CheckpointError(f"{why}, and {STATE_FILE} cannot be loaded: {error}") from error
    log.warning("%s; %s is whole, so it is used, and the manifest made again", why, STATE_FILE)
    try:
        _write_manifest(path, int(state["step"]))
    except OSError as error:
        log.warning("%s", error)
    return state


def is_whole(path: Path) -> bool:
    """Whether a file that torch has written is there, to its end, and every part of it has its checksum."""
    try:
        with zipfile.ZipFile(path) as file:
            return file.testzip() is None
    except Exception:  # on what is damaged, Python's reader raises whatever it runs into
        return False


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
        publish(path, aside)
        log.warning("%s is set aside as %s; remove it when you have looked at it", path, aside.name)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
