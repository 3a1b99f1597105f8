"""iNaturalist 2018: 8,142 species; which photo shows which is in files of COCO's kind.

Layout: `train2018.json` and `val2018.json` (`images` with id and file_name, `annotations` with image_id and
category_id, `categories` with id and name) beside `train_val2018/<group>/<category id>/<hash>.jpg`. The label is the
category id, 0 to 8,141: the order of the folders' names is another one (10 comes before 2).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from border.documents import parse_json
from dataprep.sources import published
from dataprep.writing.raw_source import Source, SourceError, existing_folder, listed_files, require_split

NUM_CLASSES = 8_142
_IMAGE_FOLDER = "train_val2018"


def open_split(root: Path, split: str) -> Source:
    """The photos that the list of `train` or `val` names, in its order."""
    root = existing_folder(root)
    require_split(split, ("train", "val"))
    list_file = root / f"{split}2018.json"
    if not list_file.is_file():
        raise SourceError(f"{list_file} is missing; unpack {published.INAT18_LISTS[split]} in {root}")
    if not (root / _IMAGE_FOLDER).is_dir():
        raise SourceError(f"{root / _IMAGE_FOLDER} is missing; unpack {published.INAT18_IMAGES} in {root}")
    paths, labels, classes = _read_list(list_file)
    strays = [path for path in paths if not path.startswith(f"{_IMAGE_FOLDER}/")]
    if strays:
        raise SourceError(f"{list_file}: {strays[0]!r} is not below {_IMAGE_FOLDER}/; get the list again")
    return Source(
        name="inat18",
        root=str(root),
        split=split,
        classes=classes,
        labels=np.array(labels, np.int64),
        relative_path=paths.__getitem__,
        content=listed_files(root, paths, list_file),
    )


def _read_list(path: Path) -> tuple[list[str], list[int], tuple[str, ...]]:
    """Paths and labels of the images, and the names of all classes."""
    try:
        document = parse_json(path.read_bytes(), dict[str, Any])
        label_of = {entry["image_id"]: int(entry["category_id"]) for entry in document["annotations"]}
        num_annotations = len(document["annotations"])
        ids = [entry["id"] for entry in document["images"]]
        paths = [str(entry["file_name"]) for entry in document["images"]]
        unlabelled = [name for image, name in zip(ids, paths, strict=True) if image not in label_of]
        classes = _class_names(document.get("categories", []))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        what = "cannot be read as JSON with images, annotations and categories"
        raise SourceError(f"{path} {what} ({type(error).__name__}: {error}); unpack it again") from error
    if unlabelled or num_annotations != len(ids):
        which = f", none for {unlabelled[0]}" if unlabelled else ""
        raise SourceError(f"{path} has {num_annotations:,} annotations for {len(ids):,} images{which}; get it again")
    labels = [label_of[image] for image in ids]
    if not labels:
        raise SourceError(f"{path} lists no images; get it again")
    if min(labels) < 0 or max(labels) >= NUM_CLASSES:
        allowed = f"0 to {NUM_CLASSES - 1:,}"
        raise SourceError(f"{path}: category ids go from {min(labels)} to {max(labels):,}, allowed: {allowed}")
    return paths, labels, classes


def _class_names(categories: list[dict[str, Any]]) -> tuple[str, ...]:
    """The species' names at their ids; the id itself where a name is missing or not the only one."""
    names = [str(number) for number in range(NUM_CLASSES)]
    for category in categories:
        if 0 <= category["id"] < NUM_CLASSES:
            names[category["id"]] = str(category["name"])
    if len(set(names)) < NUM_CLASSES:
        names = [name if name == str(number) else f"{number} {name}" for number, name in enumerate(names)]
    return tuple(names)
