"""Mean and deviation of a data set's channels, from some of its images: what normalisation can take."""

from __future__ import annotations

import io
import math

import numpy as np
from PIL import Image

from dataprep.beton.contract import IMAGE_JPEG
from dataprep.writing.sample_encoding import Encoded

NUM_IMAGES = 512
"""That are looked at, spread evenly over the data set: the mean of ImageNet's channels is then known to 0.005."""
_DRAFT_PX = 128


class ChannelStatistics:
    """Gathered while samples are written; every image counts alike, whatever its size."""

    def __init__(self, num_total: int) -> None:
        self._every = max(1, num_total // NUM_IMAGES)
        self._seen = self._counted = 0
        self._sums = np.zeros(3)
        self._squares = np.zeros(3)

    def see(self, sample: Encoded) -> None:
        """Look at a sample, or pass it by."""
        self._seen += 1
        if (self._seen - 1) % self._every:
            return
        values = _pixels(sample).reshape(-1, 3) / 255
        self._counted += 1
        self._sums += values.mean(0)
        self._squares += (values**2).mean(0)

    def measured(self) -> dict[str, list[float]]:
        """For the manifest: mean and standard deviation of each channel, for values from 0 to 1."""
        mean = self._sums / self._counted
        std = np.sqrt(np.maximum(self._squares / self._counted - mean**2, 0))
        return {"channel_mean": mean.round(4).tolist(), "channel_std": std.round(4).tolist()}


def _pixels(sample: Encoded) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    if sample.mode != IMAGE_JPEG:
        return np.frombuffer(sample.data, np.uint8)
    with Image.open(io.BytesIO(sample.data), formats=["JPEG"]) as image:
        factor = max(1, math.floor(min(image.size) / _DRAFT_PX))
        image.draft("RGB", (image.width // factor, image.height // factor))
        return np.asarray(image.convert("RGB"))
