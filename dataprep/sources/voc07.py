"""PASCAL VOC2007 for classification: 20 classes of which an image may show several, so its label is a vector.

Layout: both archives unpack into `VOCdevkit/VOC2007`, with photos `JPEGImages/<id>.jpg` and lists
`ImageSets/Main/<class>_{trainval,test}.txt`, whose lines are an id and 1 (present), -1 (absent) or 0 (there, but only
in objects marked as difficult). The values are kept: what 0 means is for an evaluation to say.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dataprep.sources import published
from dataprep.writing.raw_source import LABEL_VALUES, Source, SourceError, existing_folder, listed_files, require_split

CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
_PLACES = ("VOCdevkit/VOC2007", "VOC2007", ".")
_OFFICIAL_SPLIT = {"train": "trainval", "trainval": "trainval", "val": "test", "test": "test"}


def open_split(root: Path, split: str) -> Source:
    """The images of `trainval` or `test`; as `train` and `val` the same, under the names that other data sets use."""
    root = existing_folder(root)
    require_split(split, tuple(_OFFICIAL_SPLIT))
    official = _OFFICIAL_SPLIT[split]
    base = _find(root, official)
    lists = [base / "ImageSets" / "Main" / f"{name}_{official}.txt" for name in CLASSES]
    ids, first = _read_list(lists[0])
    columns = [first, *(_read_column(path, ids, lists[0]) for path in lists[1:])]
    paths = [f"JPEGImages/{image}.jpg" for image in ids]
    return Source(
        name="voc07",
        root=str(root),
        split=split,
        classes=CLASSES,
        labels=np.stack(columns, axis=1),
        relative_path=paths.__getitem__,
        content=listed_files(base, paths, lists[0]),
    )


def _find(root: Path, official: str) -> Path:
    """The folder VOC2007; SourceError names what is missing in it."""
    archive = published.VOC07[official]
    wanted = ["JPEGImages", *(f"ImageSets/Main/{name}_{official}.txt" for name in CLASSES)]
    for place in (root / name for name in _PLACES):
        missing = [name for name in wanted if not (place / name).exists()]
        if not missing:
            return place
        if len(missing) < len(wanted):
            others = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise SourceError(f"{place / missing[0]}{others} is missing; unpack {archive} so that it is there")
    looked = ", ".join(str(root / name) for name in _PLACES)
    raise SourceError(f"JPEGImages/ and ImageSets/Main/ are missing, looked in {looked}; unpack {archive} in {root}")


def _read_list(path: Path) -> tuple[list[str], NDArray[np.int8]]:
    """Ids and values of a class's list."""
    ids, values = [], []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        match line.split():
            case [image, "-1" | "0" | "1" as value]:
                ids.append(image)
                values.append(int(value))
            case []:
                continue
            case _:
                allowed = ", ".join(map(str, LABEL_VALUES))
                raise SourceError(f"{path}: line {number} is {line!r}, expected an id and one of {allowed}")
    if len(set(ids)) < len(ids) or not ids:
        raise SourceError(f"{path} lists {len(ids)} images, {len(set(ids))} different ones; unpack it again")
    return ids, np.array(values, np.int8)


def _read_column(path: Path, wanted: list[str], first: Path) -> NDArray[np.int8]:
    """The values of a class for the images of the first class's list, in its order."""
    ids, values = _read_list(path)
    if ids == wanted:
        return values
    differing = sorted(set(ids) ^ set(wanted))
    if differing:
        raise SourceError(
            f"{path} and {first.name} must list the same images; {len(differing)} are in one of them only, "
            f"such as {differing[0]}; unpack both again"
        )
    place = {image: number for number, image in enumerate(ids)}
    return values[[place[image] for image in wanted]]
