"""What becomes of a photo on one core, side by side: decoding, cropping and colouring, ours beside Pillow and others.

`python benchmarks/augmentation.py PHOTOS` takes what `benchmarks/loader.py` takes. The official program's transforms
are Pillow's, called by torchvision with the same distributions; both views of a photo count together.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # the tree that this file stands in, whatever is installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
import tyro
from PIL import Image
from rich.console import Console
from rich.table import Table
from torchvision import transforms
from torchvision.transforms.v2 import functional

from benchmarks.loader import BICUBIC, SIZE, beton_of, official_transform
from benchmarks.ratios import Ratio, print_ratios
from dataprep.beton.contract import open_beton
from dataprep.beton.jpeg_decoder import WheelJpeg
from dataprep.beton.turbojpeg import RGB
from vicreg.config import DataConfig, ViewConfig, official_views
from vicreg.data.decode import ImageReader
from vicreg.views.augment import ColourPlan, augment
from vicreg.views.resample import crop_resize_into
from vicreg.views.view_parameters import draw_colour, draw_geometry


@dataclass(frozen=True)
class Parts:
    """Measure decoding and augmentation on one core."""

    photos: tyro.conf.Positional[Path]
    """Folder with <class>/<photos>, or a beton of JPEGs."""
    photos_limit: int = 200
    """Photos that are measured."""


def _each_us(work: Callable[[int], object], num: int) -> float:
    """Microseconds of work(0) .. work(num - 1) each: the best of three passes."""
    passes = []
    for _ in range(3):
        start_s = time.perf_counter()
        for number in range(num):
            work(number)
        passes.append((time.perf_counter() - start_s) / num * 1e6)
    return min(passes)


def measure_parts(beton: Path, num: int = 200) -> dict[str, list[tuple[str, float]]]:
    """Microseconds per image of decoding, cropping and colouring on one core, ours first."""
    from ffcv.libffcv import resize_crop

    torch.set_num_threads(1)
    opened = open_beton(beton)
    num = min(num, opened.num_samples)
    samples, reader = np.arange(num), ImageReader(opened)
    boxes = draw_geometry(ViewConfig(), 0, 0, samples, 0, opened.widths[:num], opened.heights[:num]).boxes
    images = [reader.read(sample).copy() for sample in range(num)]
    tensors = [torch.from_numpy(image).permute(2, 0, 1) for image in images]
    pillows = [Image.fromarray(image) for image in images]
    out = torch.empty((num, SIZE, SIZE, 3), dtype=torch.uint8)
    target = np.empty((SIZE, SIZE, 3), np.uint8)

    def wheel(i: int) -> object:
        return WheelJpeg(opened.image_bytes(i)).pixels(np.empty_like(images[i]), RGB)

    def pillow_crop(i: int) -> Image.Image:
        top, left, height, width = boxes[i].tolist()
        return pillows[i].crop((left, top, left + width, top + height)).resize((SIZE, SIZE), Image.Resampling.BICUBIC)

    def ffcv_crop(i: int) -> None:
        top, left, height, width = boxes[i].tolist()
        resize_crop(images[i], top, top + height, left, left + width, target)

    def torchvision_crop(i: int) -> object:
        return functional.resized_crop(tensors[i], *boxes[i].tolist(), [SIZE, SIZE], BICUBIC, antialias=True)

    parts = {
        "decode": [
            ("ours", _each_us(reader.read, num)),
            ("simplejpeg's libjpeg-turbo", _each_us(wheel, num)),
            ("Pillow", _each_us(opened.decode, num)),
        ],
        "random crop to 224": [
            ("ours", _each_us(lambda i: crop_resize_into(out[i], images[i], boxes[i].tolist()), num)),
            ("torchvision v2, uint8 tensor", _each_us(torchvision_crop, num)),
            ("FFCV's resize_crop (area)", _each_us(ffcv_crop, num)),
            ("Pillow", _each_us(pillow_crop, num)),
        ],
    }
    crops = [Image.fromarray(crop) for crop in out.numpy()]
    for name, view in zip(("first", "second"), official_views(), strict=True):
        whole = official_transform(view, colours=True)
        assert isinstance(whole, transforms.Compose)
        colours = transforms.Compose(whole.transforms[2:])
        angles = np.zeros(num, np.float32)

        def augmented(_: int, view: ViewConfig = view, angles: Any = angles) -> object:
            plan = ColourPlan.build(draw_colour(view, 0, 0, samples, 0), angles, one_by_one=True)
            return augment(out.permute(0, 3, 1, 2), plan, DataConfig().mean, DataConfig().std)

        pillow_us = _each_us(lambda i, colours=colours: colours(crops[i]), num)  # type: ignore[misc]
        parts[f"colours of the {name} view"] = [("ours", _each_us(augmented, 1) / num), ("Pillow", pillow_us)]
    return parts


def ratios(options: Parts, console: Console) -> list[Ratio]:
    """Measure and print the parts; all of both views beside the official program's, with the target."""
    with tempfile.TemporaryDirectory() as folder:
        parts = measure_parts(beton_of(options.photos, Path(folder), 2), options.photos_limit)
    table = Table("part, one core", "by", "us per image", "times ours")
    for part, measured in parts.items():
        for by, microseconds in measured:
            table.add_row(part, by, f"{microseconds:,.0f}", f"{microseconds / measured[0][1]:.1f}")
    console.print(table)
    both = {by: 2 * dict(parts["random crop to 224"])[by] for by in ("ours", "Pillow")}
    for view in ("first", "second"):
        for by, microseconds in parts[f"colours of the {view} view"]:
            both[by] += microseconds
    return [
        Ratio(
            "augmentation, both views on one core: official (Pillow) / ours, time", both["Pillow"] / both["ours"], 3.0
        )
    ]


def main() -> None:
    """Print the tables."""
    console = Console()
    print_ratios(ratios(tyro.cli(Parts), console), console)


if __name__ == "__main__":
    main()
