"""The manifest beside a beton, as it is read: classes, checksums, and the list of samples, one line at a time.

Stands apart from `contract.py`, which is about the beton itself: betons of other writers have no manifest. It was
written by another process, perhaps on another disk, so nothing of it is believed before it is looked at.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from border.documents import parse_json
from dataprep.beton.bytes import REWRITE, BetonError

MANIFEST_SCHEMA = 1
_SAMPLES = b'"samples":'


def manifest_path(beton: Path) -> Path:
    """Where a beton's manifest lies: train.beton -> train.beton.json."""
    return beton.with_name(beton.name + ".json")


def read_manifest(beton: Path, path: Path | None = None) -> dict[str, Any]:
    """A beton's manifest without its `samples` (see `manifest_samples`); BetonError when missing or damaged.

    path: where it lies, if not beside the beton.
    """
    path = path or manifest_path(beton)
    head = []
    try:
        with path.open("rb") as file:
            for line in file:
                if line.startswith(_SAMPLES):
                    head.append(b'"samples": []}')
                    break
                head.append(line)
        manifest = parse_json(b"".join(head), dict[str, Any])
    except FileNotFoundError as error:
        raise BetonError(f"{path}: no such file; a beton written by this suite has its manifest beside it") from error
    except (OSError, ValueError) as error:
        raise _damaged(path, error) from error
    if manifest.get("schema") != MANIFEST_SCHEMA:
        found = manifest.get("schema")
        raise BetonError(f"{path}: manifest schema is {found!r}, this version reads {MANIFEST_SCHEMA}; {REWRITE}")
    manifest.pop("samples", None)
    return manifest


def class_names(beton: Path) -> tuple[str, ...] | None:
    """What a beton's labels 0, 1, ... are called: nothing where its images have none.

    None where no manifest lies beside it, BetonError for a damaged one.

    Splits that were written apart may number the same classes in another way: a missing folder shifts all that follow.
    """
    path = manifest_path(beton)
    if not path.exists():
        return None
    names = read_manifest(beton).get("classes")
    are_names = isinstance(names, list) and all(isinstance(name, str) for name in names)
    if not isinstance(names, list) or not are_names or len(set(names)) < len(names):
        raise _damaged(path, "its classes must be a list of different names")
    return tuple(names)


def has_labels(beton: Path) -> bool:
    """Whether the images of a beton have labels, as all have that were written by others."""
    return class_names(beton) != ()


def channel_statistics(beton: Path) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Mean and standard deviation of each channel, for values from 0 to 1, of a beton's images; the deviation of a
    channel that is the same everywhere counts as 1.

    None where no manifest lies beside it, or an old one; BetonError for a damaged one.
    """
    path = manifest_path(beton)
    if not path.exists():
        return None
    manifest = read_manifest(beton)
    if "channel_mean" not in manifest:
        return None
    mean, std = (_shares(manifest.get(name)) for name in ("channel_mean", "channel_std"))
    if not mean or len(mean) != len(std):
        raise _damaged(path, "its channel_mean and channel_std must be lists of numbers from 0 to 1")
    return mean, tuple(value or 1.0 for value in std)


def _shares(values: object) -> tuple[float, ...]:
    """A list of numbers from 0 to 1; nothing for anything else."""
    are_shares = isinstance(values, list) and all(isinstance(v, int | float) and 0 <= v <= 1 for v in values)
    return tuple(map(float, values)) if isinstance(values, list) and are_shares else ()


def manifest_samples(beton: Path) -> Iterator[tuple[str, int]]:
    """Relative path and CRC-32 of each sample, one line at a time: the list of a million samples is never held."""
    path = manifest_path(beton)
    for line in _sample_lines(path):
        try:
            name, crc = parse_json(line.rstrip().rstrip(b","), tuple[str, int])
        except ValueError as error:
            raise _damaged_line(path, line) from error
        yield name, crc


def sample_checksums(beton: Path) -> NDArray[np.uint32]:
    """The CRC-32 of each sample, all at once: half a second for a million."""
    path, found = manifest_path(beton), array("I")
    for line in _sample_lines(path):
        try:
            found.append(int(line.rstrip(b"],\n").rpartition(b" ")[2]))
        except (ValueError, OverflowError) as error:
            raise _damaged_line(path, line) from error
    return np.frombuffer(found, np.uint32)


def _sample_lines(path: Path) -> Iterator[bytes]:
    """The lines of the list of samples."""
    try:
        with path.open("rb") as file:
            for line in file:
                if line.startswith(_SAMPLES):
                    break
            for line in file:
                if line.startswith(b"]"):
                    return
                yield line
    except OSError as error:
        raise _damaged(path, error) from error
    raise BetonError(f"{path}: ends before its list of samples does; {REWRITE}")


def _damaged_line(path: Path, line: bytes) -> BetonError:
    return BetonError(f"{path}: damaged line {line[:80].decode('utf-8', 'replace')!r}; {REWRITE}")


def _damaged(path: Path, what: object) -> BetonError:
    cure = "copy it again from where the beton was written, or write the beton again with dataprep/write_ffcv.py"
    return BetonError(f"{path}: damaged ({what}); {cure}")
