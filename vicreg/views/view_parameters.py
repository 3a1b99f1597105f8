"""What happens to each view of each sample: crop box, flip, rotation, colours. Pure numpy, no pixels.

Every parameter is a function of (seed, epoch, sample, view): it does not depend on the batch, the rank, the thread or
the place in the epoch in which the sample comes. The distributions are those of torchvision's transforms and of the
official VICReg program (`augmentations.py`); tests compare them with torchvision's own draws.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field, fields
from enum import IntEnum
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from vicreg.config import ViewConfig
from vicreg.views.keyed_random import uniform

NUM_CROP_TRIES = 10
"""Boxes tried before the fallback to a centre crop (torchvision's RandomResizedCrop)."""


class Jitter(IntEnum):
    """The four changes of colour jitter, numbered as in torchvision's ColorJitter."""

    BRIGHTNESS = 0
    CONTRAST = 1
    SATURATION = 2
    HUE = 3


JITTER_ORDERS: NDArray[np.uint8] = np.array(list(itertools.permutations(range(len(Jitter)))), dtype=np.uint8)
"""The 24 orders in which the four changes may run (24, 4)."""


class Rand(IntEnum):
    """What RandAugment can do beside the jitter's changes; numbers that no `colour_operations.Operation` has."""

    AUTOCONTRAST = 32
    EQUALIZE = 33
    INVERT = 34
    ROTATE = 35
    POSTERIZE = 36
    SOLARIZE = 37
    SOLARIZE_ADD = 38
    SHARPNESS = 39
    SHEAR_X = 40
    SHEAR_Y = 41
    TRANSLATE_X = 42
    TRANSLATE_Y = 43


RAND_CHOICES: NDArray[np.int8] = np.array([*Rand, Jitter.SATURATION, Jitter.CONTRAST, Jitter.BRIGHTNESS], dtype=np.int8)
"""Among which RandAugment chooses, all alike (PyContrast, `datasets/RandAugment.py`)."""
RAND_P, RAND_NOISE, RAND_MAX = 0.5, 0.5, 10.0
"""Probability of a chosen operation, standard deviation of its magnitude, and the largest one (there: mstd0.5)."""


class Draw(IntEnum):
    """Which number of a sample's view is drawn; a change of these changes the augmentations of every run."""

    FLIP = 0
    ROTATION = 1
    JITTER = 2
    JITTER_ORDER = 3
    BRIGHTNESS = 4
    CONTRAST = 5
    SATURATION = 6
    HUE = 7
    GRAYSCALE = 8
    BLUR = 9
    BLUR_SIGMA = 10
    SOLARIZE = 11
    CROP_TOP = 12
    CROP_LEFT = 13
    CROP_TRIES = 16  # this and the following 2 * NUM_CROP_TRIES: area and aspect ratio of each try
    CHANNELS = 64  # this and the following, two for each channel that is no colour: brightness and contrast
    RAND_AUGMENT = 128  # this and the following 5 for each of its operations


Values = TypeVar("Values", NDArray[np.float64], Tensor)


class Key(NamedTuple):
    """Whose numbers are drawn: one view of some samples in one epoch of one run."""

    seed: int
    epoch: int
    samples: NDArray[np.int64]
    view_number: int

    def uniform(self, draw: int) -> NDArray[np.float64]:
        """Numbers in [0, 1) for every sample (B,)."""
        return uniform(self.seed, self.epoch, self.samples, self.view_number, draw).astype(np.float64)

    def between(self, draw: int, low: float, high: float) -> NDArray[np.float64]:
        """Numbers in [low, high) for every sample (B,)."""
        return low + (high - low) * self.uniform(draw)

    def happens(self, draw: int, probability: float) -> NDArray[np.bool_]:
        """True with the given probability for every sample (B,)."""
        return self.uniform(draw) < probability


@dataclass(frozen=True)
class Geometry:
    """Where the pixels of a view come from."""

    boxes: NDArray[np.int32]
    """Top, left, height and width of each crop in pixels of the stored image (B, 4)."""
    flip: NDArray[np.bool_]
    """Whether the crop is mirrored left to right (B,)."""
    angle_rad: NDArray[np.float32]
    """Counter-clockwise rotation about the centre of the cropped and mirrored view (B,)."""


@dataclass(frozen=True)
class Colour:
    """What happens to the values of a view's pixels; every array has one entry per sample (B,).

    Of channels that are no colours each has a brightness and a contrast of its own (B, C).
    """

    order: NDArray[np.uint8]
    """The four `Jitter` changes in the order in which they run (B, 4)."""
    brightness: NDArray[np.float32]
    """Factors; 1 changes nothing."""
    contrast: NDArray[np.float32]
    saturation: NDArray[np.float32]
    hue: NDArray[np.float32]
    """Shift in turns of the colour wheel; 0 changes nothing."""
    grayscale: NDArray[np.bool_]
    sigma_px: NDArray[np.float32]
    """Standard deviation of the Gaussian blur; 0 for none."""
    solarize: NDArray[np.bool_]
    rand_operations: NDArray[np.int8] = field(default_factory=lambda: np.empty((0, 0), np.int8))
    """RandAugment's, one after the other (B, n): numbers of `RAND_CHOICES`, -1 for none."""
    rand_amounts: NDArray[np.float32] = field(default_factory=lambda: np.empty((0, 0), np.float32))
    """Of each: factor, angle, bits, threshold of 255, or share of a side."""


Parameters = TypeVar("Parameters", Geometry, Colour)


def part(whole: Parameters, samples: slice) -> Parameters:
    """What happens to some of the samples."""
    return type(whole)(**{column.name: getattr(whole, column.name)[samples] for column in fields(whole)})


def draw_geometry(
    view: ViewConfig,
    seed: int,
    epoch: int,
    samples: NDArray[np.int64],
    view_number: int,
    widths: NDArray[np.integer],
    heights: NDArray[np.integer],
) -> Geometry:
    """Crop, flip and rotation of view `view_number` of each sample (B,), whose images are heights x widths pixels (B,).

    The configuration rotates before it flips; here the rotation follows the flip. With angles drawn evenly to both
    sides that is the same distribution.
    """
    key = Key(seed, epoch, np.asarray(samples, np.int64), view_number)
    limit_rad = np.deg2rad(view.rotation_deg)
    return Geometry(
        boxes=_draw_boxes(view, key, np.asarray(widths, np.int64), np.asarray(heights, np.int64)),
        flip=key.happens(Draw.FLIP, view.hflip_p),
        angle_rad=key.between(Draw.ROTATION, -limit_rad, limit_rad).astype(np.float32),
    )


def draw_colour(
    view: ViewConfig, seed: int, epoch: int, samples: NDArray[np.int64], view_number: int, channels: int = 0
) -> Colour:
    """Jitter, grayscale, blur and solarisation of view `view_number` of each sample (B,).

    channels: how many there are where they are no colours; 0 for RGB.
    """
    key = Key(seed, epoch, np.asarray(samples, np.int64), view_number)
    rounds = [_draw_rand_operation(key, number, view.rand_magnitude) for number in range(view.rand_augment)]
    jittered = key.happens(Draw.JITTER, view.jitter_p)
    blurred = key.happens(Draw.BLUR, view.blur_p)

    def where(applied: NDArray[np.bool_], values: NDArray[np.float64], neutral: float) -> NDArray[np.float32]:
        return np.where(applied, values, neutral).astype(np.float32)

    def factor(draw: int, strength: float) -> NDArray[np.float32]:
        return where(jittered, key.between(draw, max(0.0, 1 - strength), 1 + strength), 1.0)

    def channel_factors(first: int, strength: float) -> NDArray[np.float32]:
        return np.stack([factor(first + 2 * channel, strength) for channel in range(channels)], axis=1)

    return Colour(
        order=JITTER_ORDERS[(key.uniform(Draw.JITTER_ORDER) * len(JITTER_ORDERS)).astype(np.int64)],
        brightness=channel_factors(Draw.CHANNELS, view.brightness)
        if channels
        else factor(Draw.BRIGHTNESS, view.brightness),
        contrast=channel_factors(Draw.CHANNELS + 1, view.contrast)
        if channels
        else factor(Draw.CONTRAST, view.contrast),
        saturation=factor(Draw.SATURATION, view.saturation),
        hue=where(jittered, key.between(Draw.HUE, -view.hue, view.hue), 0.0),
        grayscale=key.happens(Draw.GRAYSCALE, view.grayscale_p),
        sigma_px=where(blurred, key.between(Draw.BLUR_SIGMA, *view.blur_sigma_px), 0.0),
        solarize=key.happens(Draw.SOLARIZE, view.solarize_p),
        rand_operations=np.array([operations for operations, _ in rounds], np.int8).reshape(-1, len(samples)).T,
        rand_amounts=np.array([amounts for _, amounts in rounds], np.float32).reshape(-1, len(samples)).T,
    )


def _draw_rand_operation(key: Key, number: int, magnitude: float) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """The operation number `number` of RandAugment and its amount for each sample (B,)."""
    first = Draw.RAND_AUGMENT + 5 * number
    operations = RAND_CHOICES[(key.uniform(first) * len(RAND_CHOICES)).astype(np.int64)]
    # Box and Muller's normal numbers.
    normal = np.sqrt(-2 * np.log1p(-key.uniform(first + 2))) * np.cos(2 * np.pi * key.uniform(first + 3))
    level = np.clip(magnitude + RAND_NOISE * normal, 0, RAND_MAX) / RAND_MAX
    signed = np.where(key.uniform(first + 4) < 0.5, level, -level)
    amounts = level * 1.8 + 0.1  # factors; what has no amount takes none
    for those, values in {
        (Rand.ROTATE,): signed * np.deg2rad(30),
        (Rand.POSTERIZE,): np.floor(level * 4),
        (Rand.SOLARIZE,): np.floor(level * 256),
        (Rand.SOLARIZE_ADD,): np.floor(level * 110),
        (Rand.SHEAR_X, Rand.SHEAR_Y): signed * 0.3,
        (Rand.TRANSLATE_X, Rand.TRANSLATE_Y): signed * 0.45,
    }.items():
        amounts = np.where(np.isin(operations, those), values, amounts)
    return np.where(key.happens(first + 1, RAND_P), operations, np.int8(-1)), amounts.astype(np.float32)


def _draw_boxes(view: ViewConfig, key: Key, widths: NDArray[np.int64], heights: NDArray[np.int64]) -> NDArray[np.int32]:
    """Boxes as torchvision's RandomResizedCrop draws them: even in area, even in the logarithm of the aspect ratio."""
    crop_heights, crop_widths = fallback_crops(view.crop_ratio, widths, heights)
    top, left = (heights - crop_heights) // 2, (widths - crop_widths) // 2
    log_ratio = np.log(np.asarray(view.crop_ratio))
    pending = np.arange(len(key.samples))
    for attempt in range(NUM_CROP_TRIES):
        if not len(pending):
            break
        rest = key._replace(samples=key.samples[pending])
        first = Draw.CROP_TRIES + 2 * attempt
        area_px = heights[pending] * widths[pending] * rest.between(first, *view.crop_scale)
        aspect = exponential(rest.between(first + 1, log_ratio[0], log_ratio[1]))
        tried_widths = np.rint(np.sqrt(area_px * aspect)).astype(np.int64)
        tried_heights = np.rint(np.sqrt(area_px / aspect)).astype(np.int64)
        fits = (tried_widths > 0) & (tried_widths <= widths[pending])
        fits &= (tried_heights > 0) & (tried_heights <= heights[pending])
        placed = pending[fits]
        crop_widths[placed], crop_heights[placed] = tried_widths[fits], tried_heights[fits]
        inside = key._replace(samples=key.samples[placed])
        top[placed] = (inside.uniform(Draw.CROP_TOP) * (heights[placed] - crop_heights[placed] + 1)).astype(np.int64)
        left[placed] = (inside.uniform(Draw.CROP_LEFT) * (widths[placed] - crop_widths[placed] + 1)).astype(np.int64)
        pending = pending[~fits]
    return np.stack([top, left, crop_heights, crop_widths], axis=1).astype(np.int32)


def exponential(values: Values) -> Values:
    """e to the power of float64 values, by products and sums alone: numpy and torch give the same bits on any device.

    Libraries' own differ in the last one. Taylor's series of a sixteenth, good to 1e-14 of values up to 4.
    """
    small = values * (1 / 16)
    total = small * (1 / 14) + 1.0
    for number in range(13, 0, -1):
        total = total * small * (1 / number) + 1.0
    for _ in range(4):
        total = total * total
    return total


def fallback_crops(
    ratio: tuple[float, float], widths: NDArray[np.int64], heights: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Heights and widths of the largest centre crops whose aspect ratio is allowed."""
    low, high = ratio
    aspect = widths / heights
    crop_heights = np.where(aspect < low, np.rint(widths / low).astype(np.int64), heights)
    crop_widths = np.where(aspect > high, np.rint(heights * high).astype(np.int64), widths)
    # Rounding may leave nothing of an image a pixel wide, where torchvision would fail.
    return np.clip(crop_heights, 1, heights), np.clip(crop_widths, 1, widths)
