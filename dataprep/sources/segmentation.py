"""Semantic segmentation: the class of every pixel, from PNGs beside the photos, in the layouts of VOC2012 and ADE20k.

VOC2012: `VOCdevkit/VOC2012` with photos `JPEGImages/<id>.jpg`, lists `ImageSets/Segmentation/{train,val}.txt` and
`SegmentationClass/<id>.png`, whose palette's numbers are the classes, 0 the background and 255 void.
ADE20k (ADEChallengeData2016): `images/{training,validation}/<id>.jpg` and `annotations/{training,validation}/<id>.png`,
whose grey values are the classes from 1; 0 is what belongs to none of the 150, and void here.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dataprep.sources import published
from dataprep.sources.voc07 import CLASSES
from dataprep.writing.raw_source import Source, SourceError, existing_folder, listed_files, require_split

VOC_CLASSES = ("background", *CLASSES)
NUM_ADE20K = 150
_MAX_PIXELS = 1 << 26


def open_voc12(root: Path, split: str) -> Source:
    """The images of `train` or `val` of VOC2012's segmentation; SourceError says what is missing."""
    root = existing_folder(root)
    require_split(split, ("train", "val"))
    places = (root / "VOCdevkit" / "VOC2012", root / "VOC2012", root)
    base = next((place for place in places if (place / "SegmentationClass").is_dir()), None)
    if base is None:
        raise SourceError(f"{places[0]}/SegmentationClass is missing; unpack {published.VOC12['trainval']} in {root}")
    list_file = base / "ImageSets" / "Segmentation" / f"{split}.txt"
    try:
        ids = list_file.read_text(encoding="utf-8", errors="replace").split()
    except OSError as error:
        raise SourceError(f"{list_file} is missing; unpack {published.VOC12['trainval']} in {root}") from error
    paths = [f"JPEGImages/{image}.jpg" for image in ids]
    maps = [f"SegmentationClass/{image}.png" for image in ids]
    return _source("voc12-segmentation", root, base, split, VOC_CLASSES, paths, maps, list_file, lambda grey: grey)


def open_ade20k(root: Path, split: str) -> Source:
    """The images of `train` or `val` of ADE20k's scene parsing; SourceError says what is missing."""
    root = existing_folder(root)
    require_split(split, ("train", "val"))
    base = root / "ADEChallengeData2016" if (root / "ADEChallengeData2016").is_dir() else root
    part = {"train": "training", "val": "validation"}[split]
    for folder in (base / "images" / part, base / "annotations" / part):
        if not folder.is_dir():
            raise SourceError(f"{folder} is missing; unpack {published.ADE20K} in {root}")
    names = sorted(entry.name for entry in os.scandir(base / "images" / part) if entry.name.endswith(".jpg"))
    paths = [f"images/{part}/{name}" for name in names]
    maps = [f"annotations/{part}/{name.removesuffix('.jpg')}.png" for name in names]
    classes = tuple(map(str, range(1, NUM_ADE20K + 1)))
    # 0 becomes 255 and the rest begins with 0, by the wrap of 8 bits.
    return _source("ade20k", root, base, split, classes, paths, maps, base / "images" / part, lambda grey: grey - 1)


def _source(
    name: str,
    root: Path,
    base: Path,
    split: str,
    classes: tuple[str, ...],
    paths: list[str],
    maps: list[str],
    list_name: Path,
    numbered: Callable[[NDArray[np.uint8]], NDArray[np.uint8]],
) -> Source:
    if not paths or len(set(paths)) < len(paths):
        raise SourceError(f"{list_name} lists {len(paths)} images, {len(set(paths))} different ones; unpack it again")
    listed_files(base, maps, list_name)  # raises for one that leads out of the folder

    def segments(sample: int) -> NDArray[np.uint8] | str:
        grey = read_map(base / maps[sample])
        return grey if isinstance(grey, str) else numbered(grey)

    return Source(
        name=name,
        root=str(root),
        split=split,
        classes=classes,
        labels=np.full((len(paths), len(classes)), -1, np.int8),
        relative_path=paths.__getitem__,
        content=listed_files(base, paths, list_name),
        segments=segments,
    )


def read_map(path: Path) -> NDArray[np.uint8] | str:
    """The numbers (height, width) of a PNG's palette, or its grey values; why there are none."""
    try:
        with Image.open(path, formats=["PNG"]) as image:
            if image.mode not in ("P", "L") or image.width * image.height > _MAX_PIXELS:
                return f"{path.name} is {image.width} x {image.height} of mode {image.mode}, allowed: 8 bits a pixel"
            return np.array(image)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        return f"{path.name} cannot be read ({type(error).__name__}: {str(error)[:80]})"
