"""One raw image to the bytes that a beton stores, or a named rejection.

The rules, in order. What a file is, its content decides, never its name. A picture of more than `max_pixels`, or with
a side over 65,535, is refused from its header, before any memory is taken for it. A JPEG is kept byte for byte in
write mode `passthrough` when every decoder makes the same RGB of it: three components of 8 bits, Huffman-coded,
whole and without a flaw, no EXIF rotation, no side over `max_resolution`. All else becomes RGB: EXIF orientation
applied; transparency laid on white; gray and palettes expanded; CMYK through Pillow's plain formula (Adobe's inverted
kind included); 16-bit gray divided by 257; a .npy of one channel or three as it is; of an animation the first frame;
colour profiles are not applied (as in torchvision's loader). Then the longer side is brought down to `max_resolution`
(bicubic, antialiased) and the pixels are stored raw or as JPEG.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngImageFile

from dataprep.beton.contract import IMAGE_JPEG, IMAGE_RAW
from dataprep.beton.jpeg_check import BadImage, JpegHeader, flaw_of, is_jpeg, read_jpeg_header
from dataprep.beton.pixel_format import RGB, PixelFormat
from dataprep.writing.array_files import is_array_file, open_array

WriteMode = Literal["passthrough", "jpg", "raw", "proportion"]
MAX_SIDE = 65_535  # width and height are 16-bit numbers in a beton
# Formats that Pillow decodes by itself; not EPS and its like, which would start another program.
_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "DIB", "PPM", "TIFF", "WEBP", "AVIF", "JPEG2000")
_ORIENTATION_TAG = 0x0112
_TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True)
class ImageOptions:
    """How images are stored."""

    write_mode: WriteMode
    max_resolution: int | None
    quality: int
    max_pixels: int
    pixels: PixelFormat = RGB
    """What images are to consist of; what is not RGB is stored by `channel_images.py`, sound by `sound_clips.py`."""
    clip_samples: int = 0
    """Length of a clip of sound."""


@dataclass(frozen=True)
class StoredImage:
    """One image as a beton holds it: `mode` is IMAGE_JPEG or IMAGE_RAW."""

    mode: int
    width: int
    height: int
    data: bytes
    kept: bool = False
    """The source's own bytes, untouched."""
    flaw: str = ""
    """What was wrong with the source, although it decoded."""


def store_image(content: bytes | NDArray[np.uint8], options: ImageOptions, *, as_jpeg: bool) -> StoredImage:
    """A file's content, or height x width x 3 pixels, as stored; BadImage says why it cannot be.

    `as_jpeg` decides for this image in write mode `proportion`.
    """
    if not isinstance(content, bytes):
        return _encode(_shrink(Image.fromarray(content), options.max_resolution), options, as_jpeg)
    if not content:
        raise BadImage("empty file")
    with decoding(options):
        return _store_file(content, options, as_jpeg)


@contextlib.contextmanager
def decoding(options: ImageOptions) -> Iterator[None]:
    """Whatever a decoder raises becomes a BadImage that says why."""
    try:
        with _strict_pillow(options.max_pixels):
            yield
    except BadImage:
        raise
    except MemoryError as error:
        raise BadImage("needs more memory than there is") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BadImage(f"over --max-pixels {options.max_pixels:,} (decompression bomb? {error})") from error
    except Exception as error:  # decoders raise every kind on damaged input
        raise BadImage(f"does not decode ({type(error).__name__}: {error})") from error


@contextlib.contextmanager
def _strict_pillow(max_pixels: int) -> Iterator[None]:
    """Pillow's own bomb check at our limit and as an error, for formats that state one size and decode another."""
    limit = Image.MAX_IMAGE_PIXELS
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            Image.MAX_IMAGE_PIXELS = max_pixels
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _store_file(content: bytes, options: ImageOptions, as_jpeg: bool) -> StoredImage:
    """Check, then keep or convert."""
    flaw, header = "", None
    if is_array_file(content) and (array := _rgb_of_array(content, options)) is not None:
        raw = options.write_mode if options.write_mode != "passthrough" else "raw"  # as it is, like a JPEG's own bytes
        shrunk = _shrink(Image.fromarray(array), options.max_resolution)
        return _encode(shrunk, dataclasses.replace(options, write_mode=raw), as_jpeg)
    if is_jpeg(content):
        header = read_jpeg_header(content)
        check_size(header.width, header.height, options.max_pixels)
        if header.precision_bits != 8:
            raise BadImage(f"JPEG of {header.precision_bits} bits per channel, allowed: 8")
        flaw = flaw_of(content, header)
    with open_picture(content) as image:
        check_size(*image.size, options.max_pixels)
        if options.write_mode == "passthrough" and header and not flaw and _is_plain(header, image, options):
            return StoredImage(IMAGE_JPEG, header.width, header.height, content, kept=True)
        size = image.size
        _state_transparency_as_pixels(image)
        _decode_small(image, options.max_resolution)
        lying = image.size
        image.load()
        upright = apply_orientation(image)
        size = size if upright.size == lying else size[::-1]
        stored = _encode(_shrink(_to_rgb(upright), options.max_resolution, size), options, as_jpeg)
    return dataclasses.replace(stored, flaw=flaw)


def _rgb_of_array(content: bytes, options: ImageOptions) -> NDArray[np.uint8] | None:
    """Height x width x 3 of an array of one channel or three; None for a TIFF that is a picture to Pillow."""
    try:
        array = open_array(content)
    except BadImage:
        raise
    except Exception:  # of a TIFF that tifffile cannot read, Pillow may make something, or say what is wrong
        return None
    if array.is_picture:
        return None
    if array.channels not in (1, 3):
        said = PixelFormat(array.channels, 8 * array.dtype.itemsize, is_rgb=False)
        raise BadImage(f"{said}, in a data set of RGB images; write those apart, with --channels {array.channels}")
    check_size(array.width, array.height, options.max_pixels)
    values = array.load()
    eight_bits = values if values.dtype.itemsize == 1 else (values.astype(np.uint32) + 128) // 257
    return np.ascontiguousarray(np.broadcast_to(eight_bits.astype(np.uint8), (*values.shape[:2], 3)))


def check_size(width: int, height: int, max_pixels: int) -> None:
    """Refuse empty and enormous pictures by what their header states."""
    if width <= 0 or height <= 0:
        raise BadImage(f"empty picture of {width} x {height} pixels")
    if width > MAX_SIDE or height > MAX_SIDE:
        raise BadImage(f"{width} x {height} pixels: a side is over {MAX_SIDE:,}")
    if width * height > max_pixels:
        raise BadImage(f"{width} x {height} pixels are over --max-pixels {max_pixels:,} (decompression bomb?)")


def open_picture(content: bytes) -> Image.Image:
    """Open without decoding, by content."""
    try:
        return Image.open(io.BytesIO(content), formats=_formats())
    except UnidentifiedImageError as error:
        kind = "JPEG with" if is_jpeg(content) else "not an image of a known format, or one with"
        raise BadImage(f"{kind} a damaged header") from error


@functools.cache
def _formats() -> tuple[str, ...]:
    """The formats above that this Pillow was built with."""
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def _is_plain(header: JpegHeader, image: Image.Image, options: ImageOptions) -> bool:
    """May the JPEG's own bytes be kept?"""
    fits = options.max_resolution is None or max(header.width, header.height) <= options.max_resolution
    return fits and header.num_components == 3 and header.huffman and _orientation(image) == 1


def _orientation(image: Image.Image) -> int:
    """EXIF orientation 1 to 8; damaged EXIF data counts as none."""
    try:
        value = image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:
        return 1
    return value if value in _TRANSPOSITIONS else 1


def apply_orientation(image: Image.Image) -> Image.Image:
    """The picture as it is meant to be seen (Pillow has already done so for TIFF when it was loaded)."""
    orientation = _orientation(image)
    return image if orientation == 1 else image.transpose(_TRANSPOSITIONS[orientation])


def _decode_small(image: Image.Image, max_resolution: int | None) -> None:
    """Let libjpeg decode at 1/2, 1/4 or 1/8 while that stays at twice the wanted size or more: as good, and faster."""
    factor = max(image.size) // (2 * max_resolution) if max_resolution else 1
    if factor >= 2:
        image.draft(image.mode, (image.width // factor, image.height // factor))


def _state_transparency_as_pixels(image: Image.Image) -> None:
    """Scale a PNG's transparent value as Pillow scales pixels of 2, 4 and three times 16 bits, but not this value."""
    if not isinstance(image, PngImageFile) or not image.tile:
        return
    value, kind = image.info.get("transparency"), image.tile[0].args
    if isinstance(value, int) and kind in ("L;2", "L;4"):
        image.info["transparency"] = value * (85 if kind == "L;2" else 17)
    elif isinstance(value, tuple) and kind == "RGB;16B":
        image.info["transparency"] = tuple(channel >> 8 for channel in value)


def _to_rgb(image: Image.Image) -> Image.Image:
    """Any mode to RGB, by the rules in this module's docstring."""
    mode = image.mode
    if mode == "F":
        raise BadImage("floating-point pixels have no stated range")
    if mode == "I" or mode.startswith("I;16"):
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65_535:
            raise BadImage("integer pixels outside 0..65,535 have no stated range")
        gray = ((values + 128) // 257).astype(np.uint8)
        gray[values == image.info.get("transparency", -1)] = 255
        return Image.fromarray(gray).convert("RGB")
    if mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        layer = image.convert("RGBA")
        canvas = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        canvas.alpha_composite(layer)
        return canvas.convert("RGB")
    return image if mode == "RGB" else image.convert("RGB")


def _shrink(image: Image.Image, max_resolution: int | None, full_size: tuple[int, int] | None = None) -> Image.Image:
    """Bring the longer side down to `max_resolution`; the ratio is that of `full_size`."""
    width, height = full_size or image.size
    size = shrunk_size(width, height, max_resolution)
    return image if size == (width, height) else image.resize(size, Image.Resampling.BICUBIC)


def shrunk_size(width: int, height: int, max_resolution: int | None) -> tuple[int, int]:
    """The sides once the longer one is at most `max_resolution`."""
    longest = max(width, height)
    if max_resolution is None or longest <= max_resolution:
        return width, height
    return max(1, round(width * max_resolution / longest)), max(1, round(height * max_resolution / longest))


def _encode(image: Image.Image, options: ImageOptions, as_jpeg: bool) -> StoredImage:
    """RGB pixels to stored bytes."""
    if options.write_mode == "raw" or (options.write_mode == "proportion" and not as_jpeg):
        return StoredImage(IMAGE_RAW, image.width, image.height, image.tobytes())
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=options.quality)
    return StoredImage(IMAGE_JPEG, image.width, image.height, buffer.getvalue())
