"""COCO for detection and instance segmentation: 80 classes, boxes, masks, and crowds.

Layout: `annotations/instances_{train,val}2017.json` (`images` with id, file_name, height and width; `annotations` with
image_id, category_id, bbox as left, top, width and height, area, iscrowd, and a segmentation as polygons or run
lengths; `categories`) beside the folders `train2017` and `val2017`. Masks are rasterised as COCO's own programs do it,
by their library, and stored as run lengths.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from border.documents import Unreadable, parse_json
from dataprep.beton.objects import CROWD, OBJECT, presence
from dataprep.sources import published
from dataprep.writing.raw_objects import RawObjects, usable
from dataprep.writing.raw_source import Source, SourceError, existing_folder, listed_files, require_split


class _Image(TypedDict):
    id: int
    file_name: str
    height: int
    width: int


class _Category(TypedDict):
    id: int
    name: str


class _Annotation(TypedDict):
    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]
    area: float
    iscrowd: int
    segmentation: Any


class _Document(TypedDict):
    images: list[_Image]
    annotations: list[_Annotation]
    categories: list[_Category]


def open_split(root: Path, split: str) -> Source:
    """The images that the list of `train` or `val` names, in its order; SourceError says what is missing or damaged."""
    root = existing_folder(root)
    require_split(split, ("train", "val"))
    list_file = root / "annotations" / f"instances_{split}2017.json"
    if not list_file.is_file():
        raise SourceError(f"{list_file} is missing; unpack {published.COCO_LISTS} in {root}")
    if not (root / f"{split}2017").is_dir():
        raise SourceError(f"{root / f'{split}2017'} is missing; unpack {published.COCO_IMAGES[split]} in {root}")
    document, crc = read_list(list_file)
    categories = sorted(document["categories"], key=lambda category: category["id"])
    numbers = {category["id"]: number for number, category in enumerate(categories)}
    of_image: dict[int, list[_Annotation]] = {image["id"]: [] for image in document["images"]}
    for annotation in document["annotations"]:
        of_image[annotation["image_id"]].append(annotation)
    images = document["images"]
    paths = [f"{split}2017/{image['file_name']}" for image in images]
    num_classes = len(categories)

    def objects(sample: int, with_masks: bool = True) -> RawObjects:
        image = images[sample]
        return _objects(of_image[image["id"]], numbers, image["height"], image["width"], with_masks)

    labels = [presence(usable(objects(i, False), num_classes).objects, num_classes) for i in range(len(images))]
    return Source(
        name="coco-detection",
        root=str(root),
        split=split,
        classes=tuple(category["name"] for category in categories),
        labels=np.stack(labels),
        relative_path=paths.__getitem__,
        content=listed_files(root, paths, list_file),
        objects=objects,
        has_masks=True,
        annotations_crc32=crc,
    )


def read_list(path: Path) -> tuple[_Document, int]:
    """A list of instances and its CRC-32; SourceError for what is none, or speaks of images that it does not name."""
    content = path.read_bytes()
    try:
        document = parse_json(content, _Document)
    except Unreadable as error:
        raise SourceError(f"{path} is no list of instances ({error}); unpack it again") from error
    ids = [image["id"] for image in document["images"]]
    names = [category["name"] for category in document["categories"]]
    category_ids = {category["id"] for category in document["categories"]}
    said = ""
    if not ids or len(set(ids)) < len(ids):
        said = f"{len(ids)} images, {len(set(ids))} different ones"
    elif not names or not len(names) == len(set(names)) == len(category_ids):
        said = f"{len(names)} categories, {len(set(names))} different names, {len(category_ids)} different ids"
    elif strays := {one["image_id"] for one in document["annotations"]} - set(ids):
        said = f"annotations of images that it does not list, such as {min(strays)}"
    elif odd := [one for one in document["images"] if not (0 < one["height"] < 2**16 and 0 < one["width"] < 2**16)]:
        said = f"an image of {odd[0]['width']} x {odd[0]['height']} pixels, {odd[0]['file_name'][:80]!r}"
    if said:
        raise SourceError(f"{path} has {said}; unpack it again")
    return document, zlib.crc32(content)


def _objects(
    annotations: list[_Annotation], numbers: dict[int, int], height: int, width: int, with_masks: bool
) -> RawObjects:
    """The objects of an image; what has no class or no mask is left out by name."""
    found, masks, left_out = [], [], []
    for one in annotations:
        if one["category_id"] not in numbers:
            left_out.append(f"category {one['category_id']} is none of {len(numbers)}")
            continue
        if with_masks:
            mask = _mask(one["segmentation"], height, width)
            if isinstance(mask, str):
                left_out.append(mask)
                continue
            masks.append(mask)
        left, top, wide, high = one["bbox"]
        box = (left, top, left + wide, top + high)
        found.append((box, one["area"], numbers[one["category_id"]], CROWD if one["iscrowd"] else 0))
    return RawObjects(height, width, np.array(found, OBJECT), tuple(masks) if with_masks else None, tuple(left_out))


def _mask(segmentation: Any, height: int, width: int) -> bytes | str:
    """A mask as compressed run lengths, or why there is none: polygons, run lengths, or compressed ones."""
    from pycocotools import mask as coco_mask  # a fifth of a second, for those who need it

    if isinstance(segmentation, dict):
        size, counts = segmentation.get("size"), segmentation.get("counts")
        if size != [height, width]:
            return f"mask of size {size!r}, the image has [{height}, {width}]"
        if isinstance(counts, str) and counts.isascii():
            return counts.encode("ascii")
        if not isinstance(counts, list) or not all(type(run) is int and 0 <= run < 2**32 for run in counts):
            return "mask of run lengths that are no numbers"
        packed: bytes = coco_mask.frPyObjects(segmentation, height, width)["counts"]
        return packed
    polygons = segmentation if isinstance(segmentation, list) else []
    if not polygons or not all(map(_is_polygon, polygons)):
        return "mask without polygons of three corners or more"
    merged: bytes = coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))["counts"]
    return merged


def _is_polygon(corners: Any) -> bool:
    """Pairs of numbers (NaN is none), not so far away that the library's arithmetic would overflow."""
    if not isinstance(corners, list) or len(corners) < 6 or len(corners) % 2:
        return False
    numbers = [value for value in corners if isinstance(value, int | float) and not isinstance(value, bool)]
    return len(numbers) == len(corners) and all(abs(value) < 1e5 for value in numbers)
