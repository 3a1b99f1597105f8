"""A subset of a beton: the samples that an evaluation with few labels trains on, as a list of indices beside it.

`train.simclr-1percent.json` belongs to `train.beton` beside it and to no other: it holds the number of samples and a
checksum of what they are. `write_ffcv.py subset` makes it (subset_choice.py). It imports no torch.
"""

from __future__ import annotations

import re
import zlib
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from border.documents import parse_json
from border.text import suite_command
from dataprep.beton.contract import Beton, BetonError, open_beton
from dataprep.beton.keyed_choice import keys

SUBSET_SCHEMA = 1
OFFICIAL_LISTS = {  # SimCLR's lists (github.com/google-research/simclr, imagenet_subsets/): file, SHA-256
    "simclr-1percent": ("1percent.txt", "71e82a48ba78252683ae334c4d019ebd5c6e855b9599c1389fbe83eb9549cf17"),
    "simclr-10percent": ("10percent.txt", "6d09de11e7bdaf5b1f3b1f249b6183695f97310cdd20f0c03e7235b6b9392091"),
}
_NAME = re.compile(r"[A-Za-z0-9_-]+")


class Document(TypedDict):
    """What is written of a subset."""

    schema: int
    num_samples: int
    indices: Any


def subset_path(beton: Path, name: str) -> Path:
    """Where a subset lies: train.beton, simclr-1percent -> train.simclr-1percent.json; ValueError for a bad name."""
    if not _NAME.fullmatch(name) or name == beton.suffix.removeprefix("."):
        raise ValueError(f"--name is {name!r}, allowed: letters, digits, - and _; not beton, the manifest's name")
    return beton.with_name(f"{beton.stem}.{name}.json")


def read_subset(beton: Path, name: str) -> NDArray[np.int64]:
    """The indices of a subset of `beton`, ascending; BetonError when there is none, or not of this beton."""
    path = subset_path(beton, name)
    again = f"make it again: {_command(beton, name)} --overwrite"
    try:
        document = parse_json(path.read_bytes(), Document)
        schema, num_samples = document["schema"], document["num_samples"]
        found = np.array(document["indices"])
    except FileNotFoundError as error:
        raise BetonError(f"{path}: no such file; make it: {_command(beton, name)}") from error
    except (ValueError, OverflowError) as error:
        raise BetonError(f"{path}: damaged ({type(error).__name__}: {error}); {again}") from error
    if schema != SUBSET_SCHEMA:
        raise BetonError(f"{path}: schema is {schema!r}, this version reads {SUBSET_SCHEMA}; {again}")
    opened = open_beton(beton)
    if num_samples != opened.num_samples:
        raise BetonError(
            f"{path} is of a beton of {num_samples:,} samples, {beton} has {opened.num_samples:,}; {again}"
        )
    if document.get("samples_crc32") != samples_crc32(opened):
        raise BetonError(f"{path} is of a beton of other samples or of another order than {beton}; {again}")
    if found.ndim != 1 or found.size == 0 or found.dtype != np.int64 or (np.diff(found) <= 0).any():
        raise BetonError(f"{path}: damaged (its indices must be ascending integers, at least one); {again}")
    if found[0] < 0 or found[-1] >= opened.num_samples:
        allowed = f"0 to {opened.num_samples - 1:,}"
        raise BetonError(f"{path}: indices go from {found[0]:,} to {found[-1]:,}, allowed: {allowed}; {again}")
    return found


def draw_per_class(labels: NDArray[np.int64], fraction: float, seed: int) -> NDArray[np.int64]:
    """Places of `fraction` of each class, rounded, at least one; ascending.

    A smaller fraction with the same seed gives a part of a larger one's samples.
    """
    order = np.lexsort((keys(len(labels), seed), labels))
    _, starts, counts = np.unique(labels[order], return_index=True, return_counts=True)
    wanted = np.maximum(1, np.floor(counts * fraction + 0.5).astype(np.int64))
    rank_in_class = np.arange(len(labels)) - np.repeat(starts, counts)
    return np.sort(order[rank_in_class < np.repeat(wanted, counts)])


def samples_crc32(beton: Beton) -> int:
    """CRC-32 over sizes and labels of all samples: tells another order of the same number of images."""
    return zlib.crc32(np.ascontiguousarray(beton.labels).data, zlib.crc32(beton.sizes.data))


def _command(beton: Path, name: str) -> str:
    """The command that makes a subset: from its list where there is an official one, else a draw."""
    how = ["--list", OFFICIAL_LISTS[name][0]] if name in OFFICIAL_LISTS else ["--fraction", "0.01", "--seed", "0"]
    return suite_command("dataprep/write_ffcv.py", "subset", beton, "--name", name, *how)
