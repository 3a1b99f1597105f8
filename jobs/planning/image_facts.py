"""What a data set is like, as far as `--recipe auto` asks: how many images, how large, grey or not, mirrored or not."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dataprep.beton.contract import open_beton
from dataprep.beton.manifest import channel_statistics

NUM_IMAGES = 512
"""That are looked at, spread evenly over the beton."""
SIDE_PX = 16
"""What they are shrunk to when they are held against their mirror images."""
GREY_BELOW = 0.01
"""Mean difference between channels, of 1, below which images count as grey."""


@dataclass(frozen=True)
class ImageFacts:
    """A training set in a few numbers."""

    num_images: int
    shorter_side_px: int
    """Median over the images."""
    is_grey: bool
    """RGB without colour."""
    mirror_asymmetry: float
    """By how much the mean image differs from its mirror image: the square of the difference, as a share of what
    single images differ by. Near 1 / NUM_IMAGES where left and right mean nothing."""
    mean: tuple[float, ...]
    """Per channel, for values from 0 to 1."""
    std: tuple[float, ...]
    channels: int = 0
    """Of images whose channels are no colours; 0: RGB."""


def look_at(beton: Path) -> ImageFacts:
    """The facts about a beton, the same each time; BetonError where it is missing or damaged."""
    opened = open_beton(beton)
    if opened.pixels.is_sound:
        raise ValueError(
            f"recipe auto chooses for images, and {beton} holds sound; allowed: --recipe esc50, spoken-digits"
        )
    samples = np.unique(np.linspace(0, opened.num_samples - 1, NUM_IMAGES).astype(np.int64))
    small = np.stack([_shrunk(opened.decode(int(sample)), opened.pixels.largest) for sample in samples])
    axes = (0, 1, 2)
    mean, std = channel_statistics(beton) or (_rounded(small.mean(axes)), _rounded(small.std(axes).clip(0.01)))
    return ImageFacts(
        num_images=opened.num_samples,
        shorter_side_px=int(np.median(np.minimum(opened.widths, opened.heights))),
        is_grey=opened.pixels.is_rgb and bool(np.ptp(small, axis=-1).mean() < GREY_BELOW),
        mirror_asymmetry=mirror_asymmetry(small.mean(-1)),
        mean=mean,
        std=std,
        channels=0 if opened.pixels.is_rgb else opened.pixels.channels,
    )


def mirror_asymmetry(images: NDArray[np.float64]) -> float:
    """See `ImageFacts`; images (N, height, width)."""
    odd = (images - images[:, :, ::-1]) / 2
    mean = odd.mean(0)
    spread = float(np.square(odd - mean).sum((1, 2)).mean())
    return float(np.square(mean).sum()) / spread if spread else 0.0


def _shrunk(image: NDArray[Any], largest: int) -> NDArray[np.float64]:
    """An image (height, width, channels) at SIDE_PX, its values from 0 to 1."""
    planes = np.moveaxis(image.astype(np.float32) / largest, -1, 0)
    small = [Image.fromarray(plane).resize((SIDE_PX, SIDE_PX), Image.Resampling.BOX) for plane in planes]
    return np.stack([np.asarray(plane, np.float64) for plane in small], axis=-1)


def _rounded(values: NDArray[np.float64]) -> tuple[float, ...]:
    return tuple(round(float(value), 4) for value in values)
