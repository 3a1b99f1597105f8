"""Places205 (Zhou et al., NIPS 2014): photos resized to 256 x 256, listed with their labels in two files.

Layout: `data/vision/torralba/deeplearning/images256/<letter>/<class>/...jpg` from the archive of the photos, and
`trainvalsplit_places205/{train,val}_places205.csv`, whose lines are a path below images256, a space (no comma, in
spite of the name) and a label from 0 to 204.
"""

from __future__ import annotations

import logging
from array import array
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dataprep.sources import published
from dataprep.writing.raw_source import Source, SourceError, existing_folder, listed_files, require_split

logger = logging.getLogger(__name__)

NUM_CLASSES = 205
_LIST_FOLDER = "trainvalsplit_places205"
_IMAGE_FOLDERS = ("data/vision/torralba/deeplearning/images256", "images256", ".")
_ARCHIVE_FOLDER = "imagesPlaces205_resize"


def open_split(root: Path, split: str) -> Source:
    """The photos that the list of `train` or `val` names, in its order."""
    root = existing_folder(root)
    require_split(split, ("train", "val"))
    list_file = _find_list(root, split)
    paths, labels = _read_list(list_file)
    folders = _folders(paths, labels, list_file)
    base = _find_images(root, sorted(folders))
    return Source(
        name="places205",
        root=str(root),
        split=split,
        classes=_class_names(folders),
        labels=labels,
        relative_path=paths.__getitem__,
        content=listed_files(base, paths, list_file),
    )


def _find_list(root: Path, split: str) -> Path:
    name = f"{split}_places205.csv"
    places = [root / _LIST_FOLDER / name, root / name]
    found = [place for place in places if place.is_file()]
    if not found:
        looked = " and ".join(map(str, places))
        raise SourceError(f"{name} is missing, looked for {looked}; it comes in {published.PLACES205_LISTS}")
    return found[0]


def _find_images(root: Path, folders: list[str]) -> Path:
    """The folder below which the listed class folders lie, or one of them at least."""
    places = [top / name for top in (root, root / _ARCHIVE_FOLDER) for name in _IMAGE_FOLDERS]
    for place in places:
        if any((place / folder).is_dir() for folder in folders):
            return place
    looked = ", ".join(map(str, places))
    raise SourceError(
        f"the photos are missing: none of the {len(folders)} listed class folders, the first {folders[0]}, is in "
        f"{looked}; unpack {published.PLACES205_IMAGES} in {root}"
    )


def _read_list(path: Path) -> tuple[list[str], NDArray[np.int64]]:
    """Paths and labels."""
    paths, labels = [], array("q")
    with path.open(encoding="utf-8", errors="surrogateescape") as file:
        for number, line in enumerate(file, start=1):
            parts = line.rsplit(maxsplit=1)
            if not parts:
                continue
            if len(parts) < 2 or not parts[1].isdecimal() or int(parts[1]) >= NUM_CLASSES:
                expected = f"'path.jpg label', a space between, label 0 to {NUM_CLASSES - 1}"
                raise SourceError(f"{path}: line {number} is {line.strip()!r}, expected {expected}")
            name, label = parts[0].strip().removeprefix("/"), parts[1]
            paths.append(name)
            labels.append(int(label))
    if not paths:
        raise SourceError(f"{path} lists no images; get it again from {published.PLACES205_LISTS}")
    return paths, np.frombuffer(labels, np.int64)


def _folders(paths: list[str], labels: NDArray[np.int64], list_file: Path) -> dict[str, int]:
    """The folders of the listed photos, and the label that the first photo of each has."""
    folders: dict[str, int] = {}
    others = 0
    for path, label in zip(paths, labels.tolist(), strict=True):
        others += folders.setdefault(path.rpartition("/")[0], label) != label
    if others:
        logger.warning("%s: %d photos have another label than the first photo of their folder", list_file, others)
    return folders


def _class_names(folders: dict[str, int]) -> tuple[str, ...]:
    """A class is named by its first folder, without the letter: c/church/outdoor is church/outdoor."""
    names = {label: f"(label {label})" for label in range(NUM_CLASSES)}
    names |= {label: folder for folder, label in reversed(folders.items())}
    short = [name[2:] if name[1:2] == "/" else name for name in names.values()]
    return tuple(short if len(set(short)) == NUM_CLASSES else names.values())
