"""What a data set is like, as far as `--recipe auto` asks: how many images, how large, grey or not, mirrored or not."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dataprep.beton.contract import BetonError, open_beton, read_manifest
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
    mirror_asymmetry: float
    """By how much the mean image differs from its mirror image: the square of the difference, as a share of what
    single images differ by. Near 1 / NUM_IMAGES where left and right mean nothing."""
    mean: tuple[float, ...]
    """Per channel, for values from 0 to 1."""
    std: tuple[float, ...]
    channels: int = 0
    """Of images that are no RGB, which then are not grey either; 0: RGB."""


def look_at(beton: Path) -> ImageFacts:
    """The facts about a beton, the same each time; BetonError where it is missing or damaged."""
    opened = open_beton(beton)
    samples = np.unique(np.linspace(0, opened.num_samples - 1, NUM_IMAGES).astype(np.int64))
    pixels = opened.pixels
    small = np.stack([_shrunk(opened.decode(int(sample))) for sample in samples])
    if not pixels.is_rgb:
        measured = channel_statistics(beton) or (tuple(small.mean((0, 1, 2))), tuple(small.std((0, 1, 2)) + 1e-6))
        side = int(np.median(np.minimum(opened.widths, opened.heights)))
        asymmetry = mirror_asymmetry(small.mean(-1))
        return ImageFacts(opened.num_samples, side, False, asymmetry, *measured, channels=pixels.channels)
    mean, std = _statistics(beton) or (small.mean((0, 1, 2)), small.reshape(-1, 3).std(0))
    return ImageFacts(
        num_images=opened.num_samples,
        shorter_side_px=int(np.median(np.minimum(opened.widths, opened.heights))),
        is_grey=bool(np.ptp(small, axis=-1).mean() < GREY_BELOW),
        mirror_asymmetry=mirror_asymmetry(small.mean(-1)),
        mean=_rounded(mean),
        std=_rounded(np.maximum(std, 0.01)),
    )


def mirror_asymmetry(images: NDArray[np.float64]) -> float:
    """See `ImageFacts`; images (N, height, width)."""
    odd = (images - images[:, :, ::-1]) / 2
    mean = odd.mean(0)
    spread = float(np.square(odd - mean).sum((1, 2)).mean())
    return float(np.square(mean).sum()) / spread if spread else 0.0


def _shrunk(image: NDArray[Any]) -> NDArray[np.float64]:
    if image.dtype != np.uint8 or image.shape[2] != 3:
        planes = [Image.fromarray(plane.astype(np.float32)) for plane in np.moveaxis(image, 2, 0)]
        planes = [plane.resize((SIDE_PX, SIDE_PX), Image.Resampling.BOX) for plane in planes]
        return np.stack([np.asarray(plane, np.float64) for plane in planes], 2) / np.iinfo(image.dtype).max
    small = Image.fromarray(image).resize((SIDE_PX, SIDE_PX), Image.Resampling.BOX)
    return np.asarray(small, np.float64) / 255


def _statistics(beton: Path) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """What the manifest says of the channels, if there is one that says it."""
    try:
        manifest = read_manifest(beton)
        mean, std = (np.array(manifest[name], np.float64) for name in ("channel_mean", "channel_std"))
    except (BetonError, KeyError, TypeError, ValueError):
        return None
    return (mean, std) if mean.shape == std.shape == (3,) else None


def _rounded(values: NDArray[np.float64]) -> tuple[float, float, float]:
    red, green, blue = (round(float(value), 4) for value in values)
    return red, green, blue
