"""What own images have in common, however they lie there: paths, perhaps labels, and parts held out to measure on."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dataprep.beton.keyed_choice import keys
from dataprep.writing.raw_source import Source, SourceError
from dataprep.writing.sample_encoding import Content

IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".avif", ".jp2", ".npy",
)  # fmt: skip
"""Of what this suite reads; in shards an image is told by its extension, elsewhere by its content."""


@dataclass(frozen=True)
class Listing:
    """Samples in their order, by name; a label each, or none at all."""

    paths: list[str]
    labels: list[str] | None


def as_source(
    name: str,
    root: Path,
    split: str,
    listing: Listing,
    content: Callable[[int], Content],
    classes: Iterable[str] = (),
) -> Source:
    """The samples of a listing; a class's number is its place among the sorted names, by value where all are numbers.

    `classes` are those that other splits have too.
    """
    known = sorted({*classes, *(listing.labels or ())}, key=_by_value({*classes, *(listing.labels or ())}))
    place = {label: number for number, label in enumerate(known)}
    numbers = [place[label] for label in listing.labels] if listing.labels is not None else [0] * len(listing.paths)
    return Source(
        name=name,
        root=str(root.resolve()),
        split=split,
        classes=tuple(known),
        labels=np.asarray(numbers, np.int64),
        relative_path=listing.paths.__getitem__,
        content=content,
    )


def hold_out(source: Source, fraction: float, seed: int) -> tuple[Source, Source]:
    """All but a share of the images as `train`, and that share as `val`; of every class alike where there are classes.

    A class of two images or more has at least one in each. A smaller share with the same seed is part of a larger one.
    """
    if not 0 < fraction < 1:
        raise SourceError(f"--val-fraction is {fraction}, allowed: above 0 and below 1, such as 0.1")
    if source.labels.ndim == 2:
        raise SourceError("--val-fraction divides images by their class, and these have label vectors")
    order = np.lexsort((keys(len(source), seed), source.labels))
    _, starts, counts = np.unique(source.labels[order], return_index=True, return_counts=True)
    wanted = np.clip(np.floor(counts * fraction + 0.5), np.minimum(1, counts - 1), counts - 1).astype(np.int64)
    rank_in_class = np.arange(len(source)) - np.repeat(starts, counts)
    is_val = np.zeros(len(source), bool)
    is_val[order[rank_in_class < np.repeat(wanted, counts)]] = True
    if not is_val.any():
        raise SourceError(f"--val-fraction {fraction} of {len(source):,} images leaves none to hold out; give more")
    return _part(source, np.flatnonzero(~is_val), "train"), _part(source, np.flatnonzero(is_val), "val")


def _part(source: Source, samples: NDArray[np.int64], split: str) -> Source:
    places = samples.tolist()
    return replace(
        source,
        split=split,
        labels=source.labels[samples],
        relative_path=lambda sample: source.relative_path(places[sample]),
        content=lambda sample: source.content(places[sample]),
    )


def _by_value(labels: set[str]) -> Callable[[str], tuple[int, str]]:
    are_numbers = all(label.isascii() and label.isdigit() for label in labels)
    return lambda label: (int(label) if are_numbers else 0, label)
