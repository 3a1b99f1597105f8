"""What decides a beton's bytes besides its source: the options, and the order and draws that follow from them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dataprep.beton.keyed_choice import chosen, permutation
from dataprep.beton.pixel_format import RGB, PixelFormat, channels_format, sound_format
from dataprep.writing.beton_file import MAX_SAMPLE_BYTES
from dataprep.writing.images import MAX_SIDE, ImageOptions, WriteMode

MIN_CLIP_SAMPLES = 256
"""Fewer are no sound that a network could tell from another."""


@dataclass(frozen=True)
class WritePlan:
    """Options of one write, checked when they are built; the names are those of the command line."""

    write_mode: WriteMode
    max_resolution: int | None = None
    quality: int = 90
    jpg_proportion: float = 0.5
    max_pixels: int = 1 << 26
    limit: int | None = None
    shuffle_seed: int | None = None
    channels: int | None = None
    """Of images that are not RGB."""
    bits: int | None = None
    rate_hz: int | None = None
    """Of sound."""
    clip_seconds: float | None = None

    def __post_init__(self) -> None:
        modes = ("passthrough", "jpg", "raw", "proportion")
        _require(self.write_mode in modes, "write-mode", self.write_mode, ", ".join(modes))
        fits = self.max_resolution is None or 1 <= self.max_resolution <= MAX_SIDE
        _require(fits, "max-resolution", self.max_resolution, f"1 to {MAX_SIDE:,} pixels")
        _require(1 <= self.quality <= 100, "quality", self.quality, "1 to 100")
        _require(0 <= self.jpg_proportion <= 1, "jpg-proportion", self.jpg_proportion, "0 to 1")
        most = MAX_SAMPLE_BYTES // 4
        _require(1 <= self.max_pixels <= most, "max-pixels", self.max_pixels, f"1 to {most:,}")
        if not self.pixels.is_rgb:
            _require(self.write_mode == "raw", "write-mode", self.write_mode, f"raw, for {self.pixels}")
        if self.pixels.is_sound:
            fits = MIN_CLIP_SAMPLES <= self.clip_samples <= self.max_pixels
            allowed = f"{MIN_CLIP_SAMPLES} to {self.max_pixels:,} samples at {self.rate_hz:,} Hz"
            _require(fits, "clip-seconds", self.clip_seconds, allowed)
        _require(self.limit is None or self.limit >= 1, "limit", self.limit, "1 or more")

    @property
    def pixels(self) -> PixelFormat:
        """What the images are to consist of; ValueError for what is not kept."""
        if self.rate_hz is not None:
            return sound_format(self.rate_hz)
        return RGB if self.channels is None else channels_format(self.channels, self.bits or 8)

    @property
    def clip_samples(self) -> int:
        """Length of a clip of sound; 0 for images."""
        return round((self.clip_seconds or 0) * (self.rate_hz or 0))

    @property
    def image_options(self) -> ImageOptions:
        """The part that concerns a single image."""
        return ImageOptions(
            self.write_mode, self.max_resolution, self.quality, self.max_pixels, self.pixels, self.clip_samples
        )

    def order(self, num_listed: int) -> NDArray[np.int64]:
        """Positions in the source, in the order in which they are read: shuffled first, then limited."""
        positions = np.arange(num_listed) if self.shuffle_seed is None else permutation(num_listed, self.shuffle_seed)
        return positions[: self.limit]

    def jpeg_draws(self, num_listed: int) -> NDArray[np.bool_]:
        """Which positions of the source write mode `proportion` stores as JPEG: a draw per position."""
        return chosen(num_listed, self.jpg_proportion, self.shuffle_seed or 0)


def _require(condition: bool, name: str, value: object, allowed: str) -> None:
    if not condition:
        raise ValueError(f"--{name} is {value!r}, allowed: {allowed}")
