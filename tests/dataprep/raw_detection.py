"""Small data sets for detection in the layouts of VOC and COCO: coloured rectangles on grey noise, a colour a class."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

COLOURS = np.array([[220, 40, 40], [40, 200, 60], [60, 80, 230]])
SIDE = 64


def scene(seed: int, height: int = SIDE, width: int = SIDE + 8) -> tuple[NDArray[np.uint8], list[tuple[int, ...]]]:
    """Pixels and one or two rectangles that do not touch: left, top, right, bottom (all of it inside), class."""
    random = np.random.default_rng(seed)
    pixels = random.integers(100, 156, (height, width, 3)).astype(np.uint8)
    found = []
    for part in range(1 + seed % 2):
        wide, high = random.integers(16, 28, 2).tolist()
        left = int(random.integers(0, width // 2 - wide)) + part * width // 2
        top = int(random.integers(0, height - high))
        name = int(random.integers(0, len(COLOURS)))
        pixels[top : top + high, left : left + wide] = COLOURS[name]
        found.append((left, top, left + wide, top + high, name))
    return pixels, found


def save(path: Path, pixels: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, quality=95, subsampling=0)


def write_voc(root: Path, num: dict[str, int], names: tuple[str, ...] = ("bird", "cat", "cow")) -> None:
    """VOC2007 (and 2012, if numbers of its images are given): num of e.g. 2007_trainval."""
    seed = 0
    for part, count in num.items():
        year, split = part.split("_")
        base = root / "VOCdevkit" / f"VOC{year}"
        ids = []
        for _ in range(count):
            pixels, objects = scene(seed)
            ids.append(f"{seed:06d}")
            save(base / "JPEGImages" / f"{ids[-1]}.jpg", pixels)
            write_annotation(base / "Annotations" / f"{ids[-1]}.xml", pixels.shape[:2], objects, names)
            seed += 1
        (base / "ImageSets" / "Main").mkdir(parents=True, exist_ok=True)
        (base / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(ids) + "\n")


def write_annotation(
    path: Path, size: tuple[int, ...], objects: list[tuple[int, ...]], names: tuple[str, ...], difficult: int = 0
) -> None:
    """An annotation of VOC, whose corners count from 1 and belong to the box."""
    parts = [f"<size><width>{size[1]}</width><height>{size[0]}</height><depth>3</depth></size>"]
    for left, top, right, bottom, name in objects:
        corners = {"xmin": left + 1, "ymin": top + 1, "xmax": right, "ymax": bottom}
        box = "".join(f"<{key}>{value}</{key}>" for key, value in corners.items())
        parts.append(
            f"<object><name>{names[name]}</name><difficult>{difficult}</difficult><bndbox>{box}</bndbox></object>"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"<annotation>{''.join(parts)}</annotation>")


def write_coco(root: Path, num: dict[str, int], change: dict[str, Any] | None = None) -> dict[str, Any]:
    """COCO's lists and photos; the lists by split. change: of the first annotation of each list."""
    lists = {}
    for split, count in num.items():
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for number in range(count):
            pixels, objects = scene(1000 * len(split) + number)
            name = f"{number:012d}.jpg"
            save(root / f"{split}2017" / name, pixels)
            images.append({"id": 7 * number + 3, "file_name": name, "height": len(pixels), "width": pixels.shape[1]})
            for left, top, right, bottom, kind in objects:
                corners = [left, top, right, top, right, bottom, left, bottom]
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": images[-1]["id"],
                        "category_id": 10 * (kind + 1),
                        "bbox": [left, top, right - left, bottom - top],
                        "area": (right - left) * (bottom - top),
                        "iscrowd": 0,
                        "segmentation": [corners],
                    }
                )
        annotations[0] |= change or {}
        categories = [{"id": 10 * (kind + 1), "name": name} for kind, name in enumerate(("red", "green", "blue"))]
        lists[split] = {"images": images, "annotations": annotations, "categories": categories[::-1]}
        (root / "annotations").mkdir(parents=True, exist_ok=True)
        (root / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(lists[split]))
    return lists


def write_voc_segmentation(root: Path, num: dict[str, int]) -> None:
    """VOC2012's segmentation: num of train and val; the rectangles' classes are 1 to 3, their edges void."""
    base, seed = root / "VOCdevkit" / "VOC2012", 0
    for split, count in num.items():
        ids = []
        for _ in range(count):
            pixels, objects = scene(seed)
            classes = np.zeros(pixels.shape[:2], np.uint8)
            for left, top, right, bottom, name in objects:
                classes[top:bottom, left:right] = 255
                classes[top + 1 : bottom - 1, left + 1 : right - 1] = name + 1
            ids.append(f"2012_{seed:06d}")
            save(base / "JPEGImages" / f"{ids[-1]}.jpg", pixels)
            image = Image.fromarray(classes, mode="P")
            image.putpalette([value % 256 for number in range(256) for value in (number * 7, number * 31, number * 67)])
            (base / "SegmentationClass").mkdir(parents=True, exist_ok=True)
            image.save(base / "SegmentationClass" / f"{ids[-1]}.png")
            seed += 1
        (base / "ImageSets" / "Segmentation").mkdir(parents=True, exist_ok=True)
        (base / "ImageSets" / "Segmentation" / f"{split}.txt").write_text("\n".join(ids) + "\n")
