"""Mean and deviation of a data set's channels, from some of its images: what normalisation can take."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dataprep.beton.contract import IMAGE_JPEG
from dataprep.beton.pixel_format import PixelFormat
from dataprep.writing.sample_encoding import Encoded

NUM_IMAGES = 512
"""That are looked at, spread evenly over the data set: the mean of ImageNet's channels is then known to 0.005."""
_DRAFT_PX = 128
_ROUNDING = 1e-12
"""Share of the squares below which a variance is what their rounding leaves: of a channel that is the same all over."""


class ChannelStatistics:
    """Gathered while samples are written; every image counts alike, whatever its size."""

    def __init__(self, num_total: int, pixels: PixelFormat) -> None:
        self._every = max(1, num_total // NUM_IMAGES)
        self._pixels = pixels
        self._seen = self._counted = 0
        self._sums = np.zeros(pixels.channels)
        self._squares = np.zeros(pixels.channels)

    def see(self, sample: Encoded) -> None:
        """Look at a sample, or pass it by."""
        self._seen += 1
        if (self._seen - 1) % self._every:
            return
        values = self._values(sample).reshape(-1, self._pixels.channels) / self._pixels.largest
        self._counted += 1
        self._sums += values.mean(0)
        self._squares += (values**2).mean(0)

    def measured(self) -> dict[str, list[float]]:
        """For the manifest: mean and standard deviation of each channel, for values from 0 to 1; of sound 0 and the
        root mean square, for values from -1 to 1."""
        mean = self._sums / self._counted
        if self._pixels.is_sound:  # which swings about 0: what a microphone adds to that is no part of it
            mean = np.zeros_like(mean)
        squares = self._squares / self._counted
        variance = squares - mean**2
        std = np.sqrt(np.where(variance > _ROUNDING * squares, variance, 0))
        return {"channel_mean": self._rounded(mean), "channel_std": self._rounded(std)}

    def _rounded(self, values: NDArray[np.float64]) -> list[float]:
        """To what is known of them; of 16 bits often only the lowest are in use."""
        return [round(value, 4) if self._pixels.bits == 8 else float(f"{value:.6g}") for value in values.tolist()]

    def _values(self, sample: Encoded) -> NDArray[Any]:
        if sample.mode != IMAGE_JPEG:
            return np.frombuffer(sample.data, self._pixels.dtype)
        with Image.open(io.BytesIO(sample.data), formats=["JPEG"]) as image:
            factor = max(1, math.floor(min(image.size) / _DRAFT_PX))
            image.draft("RGB", (image.width // factor, image.height // factor))
            return np.asarray(image.convert("RGB"))
