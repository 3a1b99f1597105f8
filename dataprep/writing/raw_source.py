"""What every raw data set looks like to the writer: labels, and where each sample's content and name are."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from border.text import did_you_mean
from dataprep.beton.captions import CAPTIONS
from dataprep.beton.jpeg_check import BadImage
from dataprep.beton.objects import MASKS, OBJECTS
from dataprep.beton.pixel_format import PixelFormat, channels_format
from dataprep.beton.segments import SEGMENTS
from dataprep.writing.channel_images import format_of
from dataprep.writing.images import WriteMode
from dataprep.writing.raw_captions import RawCaptions
from dataprep.writing.raw_objects import RawObjects
from dataprep.writing.sample_encoding import Content, FilePart, read_content

SPLITS = ("train", "val", "test", "trainval")
"""Names of splits that say what a beton is for."""
_LOOKED_AT = 16
"""First images of which one says what all consist of."""
LABEL_VALUES = (-1, 0, 1)
"""In a label vector, for each class: absent, there but only in objects marked as difficult, present."""


class SourceError(ValueError):
    """The raw data are not where or what they should be; the message says what was expected where."""


@dataclass(frozen=True)
class Clips:
    """How clips of sound are stored, and which of them belong together."""

    rate_hz: int
    seconds: float
    folds: NDArray[np.int64]
    """Fold of the data set in which each clip is (N,); 0 where it has none."""
    recordings: NDArray[np.int64]
    """Number of the recording from which each clip was cut (N,): a hash of its name."""


@dataclass(frozen=True)
class Source:
    """An indexed data set: sample i has `labels[i]`, `relative_path(i)` and `content(i)`."""

    name: str
    root: str
    """Absolute folder, or the package that holds the data."""
    split: str
    classes: tuple[str, ...]
    labels: NDArray[Any]
    """(N,) int64, a class each, or zeros where there are no classes; or (N, number of classes) int8, vectors of
    LABEL_VALUES."""
    relative_path: Callable[[int], str]
    content: Callable[[int], Content]
    default_write_mode: WriteMode = "passthrough"
    objects: Callable[[int], RawObjects] | None = None
    """The objects that each image shows; then its label vector follows from them when it is written."""
    has_masks: bool = False
    annotations_crc32: int = 0
    """Of the files that hold the objects, or the captions."""
    segments: Callable[[int], NDArray[np.uint8] | str] | None = None
    """The class of every pixel of each image (height, width), or why there is none; label vectors follow from them."""
    captions: Callable[[int], RawCaptions] | None = None
    """What is said of each image."""

    clips: Clips | None = None
    """Of sound."""

    def __post_init__(self) -> None:
        assert len(set(self.classes)) == len(self.classes), "class names must differ"
        if self.labels.ndim == 1:
            assert self.labels.dtype == np.int64
        else:
            assert self.labels.dtype == np.int8
            assert self.labels.shape[1:] == (len(self.classes),)

    def __len__(self) -> int:
        return len(self.labels)

    def without_labels(self) -> Source:
        """The same images, of no class."""
        return replace(self, classes=(), labels=np.zeros(len(self), np.int64))

    @property
    def more_fields(self) -> tuple[str, ...]:
        """Names of the fields in which objects, the classes of pixels, or captions are stored."""
        if self.captions is not None:
            return (CAPTIONS,)
        if self.segments is not None:
            return (SEGMENTS,)
        return () if self.objects is None else (OBJECTS, MASKS) if self.has_masks else (OBJECTS,)

    @property
    def label_length(self) -> int:
        """Length of the label vectors; 0 when labels are classes."""
        return len(self.classes) if self.labels.ndim == 2 else 0


def doubts(source: Source) -> list[str]:
    """What is allowed but seldom meant, one sentence each."""
    found = []
    if len(source.classes) == 1:
        found.append(f"{source.root} has one class only, {source.classes[0]}: no evaluation can tell it from others")
    if source.split and source.split not in SPLITS:
        names = ", ".join(SPLITS)
        what = f"the beton will be {source.split}.beton; recipes and evaluations look for train.beton and val.beton"
        found.append(f"--split is {source.split!r}, none of {names}: {what}")
    return found


def first_format(source: Source, channels: int | None, max_pixels: int) -> tuple[PixelFormat, str]:
    """What the images consist of, by the first that can be told, and what that one loses; "" for nothing.

    channels: as asked for. ValueError for a number of channels that is not kept.
    """
    if channels is not None:
        channels_format(channels, 8)
    pixels, note = format_of(_first_contents(source, max_pixels), channels)
    return pixels, note and f"{source.root}: an image {note}"


def _first_contents(source: Source, max_pixels: int) -> Iterator[bytes | NDArray[np.uint8]]:
    for sample in range(min(len(source), _LOOKED_AT)):
        try:
            yield read_content(source.content(sample), max_pixels)
        except (OSError, BadImage):  # said by the writer
            continue


def existing_folder(root: Path) -> Path:
    """The root as an absolute path."""
    if not root.is_dir():
        raise SourceError(f"--root {root} is no folder; give the folder that holds the raw data")
    return root.resolve()


def require_split(split: str, allowed: tuple[str, ...]) -> None:
    """SourceError unless the split is one of those that there are."""
    if split not in allowed:
        raise SourceError(f"--split is {split!r}, allowed: {', '.join(allowed)}{did_you_mean(split, allowed)}")


def listed_files(base: Path, paths: list[str], list_name: Path) -> Callable[[int], FilePart]:
    """The content of files that a list names by their paths below `base`; SourceError when one leads out of it.

    Whether they are there is seen when they are read: a missing one is rejected by name.
    """
    for path in paths:
        if not path or path.startswith("/") or ".." in PurePosixPath(path).parts:
            raise SourceError(f"{list_name}: {path!r} is no path below {base}; get the list again")
    folder = str(base)
    return lambda sample: FilePart(os.path.join(folder, paths[sample]), listed_below=folder)
