"""Making a subset: the samples that a published list names, or a seeded draw from each class."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataprep.beton.contract import Beton, BetonError, manifest_samples, open_beton, read_manifest
from dataprep.beton.subset import OFFICIAL_LISTS, SUBSET_SCHEMA, draw_per_class, samples_crc32, subset_path
from dataprep.writing.writer import WriteError
from disk.whole_files import failure, partial_path, publish, remove_stale_partials

_NAMES_SHOWN = 3


def write_listed(beton: Path, name: str, list_file: Path, *, allow_other: bool, overwrite: bool) -> tuple[Path, int]:
    """Write the subset of the samples that a list names; its path and size.

    One file name per line, or a path as in the manifest where names are not unique. ValueError for a list that is not
    the official one of this name (or, under another name, any of them) unless `allow_other`, and for names that the
    beton does not have.
    """
    path, opened = subset_path(beton, name), open_beton(beton)
    try:
        content = list_file.read_bytes()
    except OSError as error:
        raise ValueError(f"--list {list_file} cannot be read ({error}); {_where(name)}") from error
    checksum = hashlib.sha256(content).hexdigest()
    expected = {name: OFFICIAL_LISTS[name]} if name in OFFICIAL_LISTS else OFFICIAL_LISTS
    if not allow_other and checksum not in {official for _, official in expected.values()}:
        wanted = " or ".join(f"{official} ({file})" for file, official in expected.values())
        raise ValueError(
            f"--list {list_file} has SHA-256 {checksum}, expected {wanted}; {_where(name)}, or add --allow-other-list"
        )
    indices = _listed(opened, content.decode("utf-8", "surrogateescape").split("\n"), list_file)
    made_from = {"list": list_file.name, "sha256": checksum}
    _write(path, opened, made_from, indices, overwrite)
    return path, len(indices)


def write_drawn(beton: Path, name: str, fraction: float, seed: int, *, overwrite: bool) -> tuple[Path, int]:
    """Write a subset with this fraction of each class, at least one sample; its path and size."""
    if not 0 < fraction <= 1:
        raise ValueError(f"--fraction is {fraction}, allowed: over 0, up to 1")
    path, opened = subset_path(beton, name), open_beton(beton)
    if opened.labels.ndim != 1:
        raise ValueError(f"{beton} has label vectors; --fraction draws from classes, of which an image must have one")
    indices = draw_per_class(opened.labels, fraction, seed)
    _write(path, opened, {"fraction": fraction, "seed": seed}, indices, overwrite)
    return path, len(indices)


def _listed(beton: Beton, lines: list[str], list_file: Path) -> NDArray[np.int64]:
    """Places of the samples that the lines name, ascending."""
    wanted = {line.strip() for line in lines} - {""}
    if not wanted:
        raise ValueError(f"--list {list_file} names no samples; expected a file name per line")
    read_manifest(beton.path)  # says what is wrong with it
    by_path = {name for name in wanted if "/" in name}
    found: dict[str, int] = {}
    num_listed = 0
    for place, (path, _) in enumerate(manifest_samples(beton.path)):
        num_listed += 1
        name = path if path in by_path else path.rpartition("/")[2]
        if name not in wanted:
            continue
        if name in found:
            raise ValueError(f"{name} in {list_file} names two samples, the second is {path}; list paths instead")
        found[name] = place
    if num_listed != beton.num_samples:
        listed = f"its manifest lists {num_listed:,} samples, it has {beton.num_samples:,}"
        raise BetonError(f"{beton.path}: {listed}; look at it with write_ffcv.py verify")
    missing = sorted(wanted - found.keys())
    if missing:
        shown = ", ".join(missing[:_NAMES_SHOWN]) + (" ..." if len(missing) > _NAMES_SHOWN else "")
        raise ValueError(
            f"{len(missing):,} of the {len(wanted):,} samples of {list_file} are not in {beton.path}: {shown}; it must "
            "be the whole training set (images that could not be used are under `rejected` in its manifest)"
        )
    return np.sort(np.fromiter(found.values(), np.int64, len(found)))


def _where(name: str) -> str:
    """Where the official lists are."""
    files = [OFFICIAL_LISTS[name][0]] if name in OFFICIAL_LISTS else [file for file, _ in OFFICIAL_LISTS.values()]
    return f"get {' or '.join(files)} from github.com/google-research/simclr, imagenet_subsets/"


def _write(path: Path, beton: Beton, made_from: dict[str, Any], indices: NDArray[np.int64], overwrite: bool) -> None:
    """The file, complete or not at all; ValueError when another is there, WriteError when it cannot be."""
    document = {
        "schema": SUBSET_SCHEMA,
        "beton": beton.path.name,
        "num_samples": beton.num_samples,
        "samples_crc32": samples_crc32(beton),
        "made_from": made_from,
        "indices": indices.tolist(),
    }
    text = json.dumps(document) + "\n"
    if path.exists() and not overwrite:
        if path.read_text(encoding="utf-8", errors="replace") == text:
            return
        raise ValueError(f"{path} exists and is another; --overwrite replaces it, or choose another --name")
    partial = partial_path(path)
    try:
        remove_stale_partials(path)
        partial.write_text(text, encoding="utf-8")
        publish(partial, path)
    except OSError as error:
        raise WriteError(failure(error, path, len(text), "link the beton into another folder")) from error
    finally:
        partial.unlink(missing_ok=True)
