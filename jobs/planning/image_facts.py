"""What a data set is like, as far as `--recipe auto` asks: how many images, how large, grey or not, mirrored or not."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dataprep.beton.contract import BetonError, open_beton, read_manifest

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
    mean: tuple[float, float, float]
    """Per channel, for values from 0 to 1."""
    std: tuple[float, float, float]


def look_at(beton: Path) -> ImageFacts:
    """The facts about a beton, the same each time; BetonError where it is missing or damaged."""
    opened = open_beton(beton)
    samples = np.unique(np.linspace(0, opened.num_samples - 1, NUM_IMAGES).astype(np.int64))
    small = np.stack([_shrunk(opened.decode(int(sample))) for sample in samples])
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


def _shrunk(image: NDArray[np.uint8]) -> NDArray[np.float64]:
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
