"""What the samples of a beton are: RGB images, images of channels of 8 or 16 bits that are no colours, or sound.

Stands apart because all who write, read or cut images ask for it. RGB images are a field of FFCV's RGBImageField. Other
channels are one of its BytesField, so that plain FFCV reads them too: of each image the values, row by row, of a pixel
all channels side by side, 16 bits in little-endian order; its sides are the fields `width` and `height`.
Sound is one channel of signed 16 bits, an image of height 1: the field `sound`, whose length is the field `samples`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

MAX_CHANNELS = 16
BITS = (8, 16)
RATES_HZ = (1_000, 384_000)
"""Lowest and highest rate of sound."""
SOUND_SCALE = 1 << 15
"""Sound's samples are whole numbers from -32,768 to 32,767, read as -1 to 1."""


@dataclass(frozen=True)
class PixelFormat:
    """Channels of an image and bits of each; the defaults are those of RGB."""

    channels: int = 3
    bits: int = 8
    is_rgb: bool = True
    """Whether the channels are red, green and blue; only then is there colour to change."""
    rate_hz: int = 0
    """Samples of sound per second; 0: images."""

    @property
    def is_sound(self) -> bool:
        """Whether it is sound."""
        return self.rate_hz > 0

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of a value as it is stored."""
        return np.dtype("<i2" if self.is_sound else "u1" if self.bits == 8 else "<u2")

    @property
    def largest(self) -> int:
        """The value that counts as 1 where values go from 0 to 1; of sound, from -1 to 1."""
        return SOUND_SCALE if self.is_sound else int(2**self.bits) - 1

    @property
    def pixel_bytes(self) -> int:
        """Bytes of a pixel."""
        return self.channels * self.dtype.itemsize

    def __str__(self) -> str:
        if self.is_rgb:
            return "RGB"
        if self.is_sound:
            return f"sound at {self.rate_hz:,} Hz"
        return f"{self.channels} {'channel' if self.channels == 1 else 'channels'} of {self.bits} bits"


RGB = PixelFormat()


def channels_format(channels: int, bits: int) -> PixelFormat:
    """The format of so many channels that are no colours; ValueError for what is not kept."""
    if not 1 <= channels <= MAX_CHANNELS:
        raise ValueError(f"{channels} channels, allowed: 1 to {MAX_CHANNELS}")
    if bits not in BITS:
        raise ValueError(f"{bits} bits, allowed: 8 or 16")
    return PixelFormat(channels, bits, is_rgb=False)


def sound_format(rate_hz: int) -> PixelFormat:
    """The format of sound at that rate; ValueError for what is not kept."""
    low, high = RATES_HZ
    if not low <= rate_hz <= high:
        raise ValueError(f"sound at {rate_hz} Hz, allowed: {low:,} to {high:,}")
    return PixelFormat(1, 16, is_rgb=False, rate_hz=rate_hz)
