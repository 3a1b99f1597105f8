"""Images that are kept as channels: 1 to 16 of 8 or 16 bits, without loss; and which of a data set's are.

Nothing is converted: an image of another number of channels or bits than the data set's is refused by name. The only
change is that of size, where `max_resolution` asks for it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dataprep.beton.contract import IMAGE_RAW
from dataprep.beton.jpeg_check import BadImage
from dataprep.beton.pixel_format import RGB, PixelFormat, channels_format
from dataprep.writing.array_files import ArrayFile, is_array_file, open_array, require_integers
from dataprep.writing.images import (
    ImageOptions,
    StoredImage,
    apply_orientation,
    check_size,
    decoding,
    open_picture,
    shrunk_size,
)

_MODES = {"L": 1, "1": 1, "RGB": 3, "RGBA": 4, "I;16": 1, "I;16L": 1, "I;16B": 1}
"""Channels of Pillow's modes that can be kept."""
_PNG, _PNG_BITS, _PNG_KIND = b"\x89PNG\r\n\x1a\n", 24, 25  # places of the bit depth and of the kind of colour


def store_channels(content: bytes | NDArray[np.uint8], options: ImageOptions) -> StoredImage:
    """A file's content, or an array of height x width x channels, as it is stored; BadImage says why it cannot be."""
    with decoding(options):
        pixels = options.pixels
        values = content if isinstance(content, np.ndarray) else _read(content, options)
        values = _grey(values) if pixels.channels == 1 else values
        found = values.shape[2], values.dtype.itemsize
        if found != (pixels.channels, pixels.dtype.itemsize):
            raise BadImage(f"{_say(values.shape[2], values.dtype)}, in a data set of {pixels}")
        check_size(values.shape[1], values.shape[0], options.max_pixels)
        values = _shrink(values, options.max_resolution, pixels)
        stored = np.ascontiguousarray(values, pixels.dtype)
        return StoredImage(IMAGE_RAW, values.shape[1], values.shape[0], stored.tobytes())


def read_channels(content: bytes, channels: int, max_pixels: int) -> NDArray[Any]:
    """The values of a file, height x width x `channels`, of as many bits as it has; BadImage says why not."""
    options = ImageOptions("raw", None, 90, max_pixels, channels_format(channels, 8))
    with decoding(options):
        values = _read(content, options)
        values = _grey(values) if channels == 1 else values
        if values.shape[2] != channels:
            raise BadImage(f"{_say(values.shape[2], values.dtype)}, not {channels}")
        return values


def format_of(contents: Iterable[bytes | NDArray[np.uint8]], channels: int | None) -> tuple[PixelFormat, str]:
    """What a data set's images are, by the first of these that can be told, and what that one loses.

    RGB, but where the first is an array of other numbers (.npy, TIFF), or where `channels` are asked for.
    ValueError for a number of channels that is not kept.
    """
    for content in contents:
        try:
            found = _format(content, channels)
        except Exception:  # damaged: the writer will say how
            continue
        if found:
            return found
    return (channels_format(channels, 8) if channels else RGB), ""


def _format(content: bytes | NDArray[np.uint8], channels: int | None) -> tuple[PixelFormat, str] | None:
    if isinstance(content, np.ndarray):
        return (channels_format(channels, 8), "") if channels else (RGB, "")
    if not content:
        return None
    if is_array_file(content):
        array = open_array(content, channels)
        bits = 8 * array.dtype.itemsize
        if channels:
            return (channels_format(channels, bits), "") if channels == array.channels else None
        is_rgb = array.is_picture or (array.channels, bits) == (RGB.channels, RGB.bits)
        return (RGB, array.note) if is_rgb else (channels_format(array.channels, bits), "")
    has_16_bits = content.startswith(_PNG) and content[_PNG_BITS] == 16
    if channels:
        return channels_format(channels, 16 if has_16_bits else 8), ""
    is_grey = has_16_bits and content[_PNG_KIND] == 0
    return RGB, "has 16 bits, of which 8 are kept; --channels 1 keeps all" if is_grey else ""


def _read(content: bytes, options: ImageOptions) -> NDArray[Any]:
    """The values of a file, height x width x channels."""
    if not content:
        raise BadImage("empty file")
    if is_array_file(content):
        array = open_array(content, options.pixels.channels)
        check_array(array, options)
        return array.load()
    with open_picture(content) as image:
        check_size(*image.size, options.max_pixels)
        if image.mode not in _MODES or "transparency" in image.info:
            kinds = ", ".join(_MODES)
            raise BadImage(f"a {image.format} of mode {image.mode}, allowed for channels: {kinds}; convert it to TIFF")
        if image.format == "PNG" and image.mode in ("RGB", "RGBA") and content[_PNG_BITS] == 16:
            raise BadImage("a PNG of 16 bits per colour, of which only 8 can be read; convert it to TIFF or .npy")
        image.load()
        upright = apply_orientation(image)
        values = np.asarray(upright.convert("L") if upright.mode == "1" else upright)
    require_integers(values.dtype)
    return values if values.ndim == 3 else values[..., None]


def check_array(array: ArrayFile, options: ImageOptions) -> None:
    """Refuse empty and enormous arrays before they are in memory; channels count as pixels do."""
    check_size(array.width, array.height, options.max_pixels)


def _grey(values: NDArray[Any]) -> NDArray[Any]:
    """The one channel of a picture whose three are the same; others as they are."""
    is_grey = values.shape[2] == 3 and bool((values == values[..., :1]).all())
    return values[..., :1] if is_grey else values


def _say(channels: int, dtype: np.dtype[Any]) -> str:
    return str(PixelFormat(channels, 8 * dtype.itemsize, is_rgb=False))


def _shrink(values: NDArray[Any], max_resolution: int | None, pixels: PixelFormat) -> NDArray[Any]:
    """The longer side brought down to `max_resolution` as of RGB images, each channel in floating point."""
    height, width = values.shape[:2]
    size = shrunk_size(width, height, max_resolution)
    if size == (width, height):
        return values
    planes = [Image.fromarray(values[..., channel].astype(np.float32)) for channel in range(pixels.channels)]
    shrunk = np.stack([np.asarray(plane.resize(size, Image.Resampling.BICUBIC)) for plane in planes], axis=2)
    rounded: NDArray[Any] = np.clip(np.rint(shrunk), 0, pixels.largest).astype(pixels.dtype)
    return rounded
