"""Files that hold numbers rather than a photo: .npy and TIFF, as arrays of height x width x channels.

What such a file states is looked at before memory is taken for it, and what it does not hold is never filled in. An
array of Python objects, which could run code, is not opened. TIFF is read by tifffile (pure numpy), which decodes what
is stored plain or with deflate; the other codecs come with the package imagecodecs, where that is installed.
"""

from __future__ import annotations

import importlib.util
import io
import logging
import math
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from dataprep.beton.jpeg_check import BadImage
from dataprep.beton.pixel_format import MAX_CHANNELS

_NPY = b"\x93NUMPY"
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_GREY, _RGB = (0, 1), 2  # photometric interpretations; in the first of grey's white is 0
_PLAIN, _DEFLATE = 1, (8, 32946)  # compressions
_ORIENTATIONS: dict[int, Callable[[NDArray[Any]], NDArray[Any]]] = {
    2: lambda image: image[:, ::-1],
    3: lambda image: image[::-1, ::-1],
    4: lambda image: image[::-1],
    5: lambda image: image.swapaxes(0, 1),
    6: lambda image: image[::-1].swapaxes(0, 1),
    7: lambda image: image[::-1, ::-1].swapaxes(0, 1),
    8: lambda image: image[:, ::-1].swapaxes(0, 1),
}


@dataclass(frozen=True)
class ArrayFile:
    """What a file states, and how its values are had."""

    height: int
    width: int
    channels: int
    dtype: np.dtype[Any]
    is_picture: bool
    """Whether it is one that all programs show alike, in RGB or grey; then Pillow reads it too."""
    note: str
    """What a picture loses on the way to RGB, and how it is kept."""
    load: Callable[[], NDArray[Any]]
    """The values, height x width x channels; BadImage where the file does not hold what it states."""


def is_array_file(content: bytes) -> bool:
    """Whether these are the first bytes of .npy or TIFF."""
    return content.startswith((_NPY, *_TIFF))


def open_array(content: bytes, channels: int | None = None) -> ArrayFile:
    """The array in a .npy or TIFF file; `channels` says which axis is theirs where the file does not.

    BadImage for values without a stated range, and for what is no image of up to 16 channels.
    """
    return _open_npy(content, channels) if content.startswith(_NPY) else _open_tiff(content, channels)


def _open_npy(content: bytes, channels: int | None) -> ArrayFile:
    file = io.BytesIO(content)
    try:
        version = npy.read_magic(file)
        read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}[version]
        shape, in_columns, dtype = read(file)
    except (ValueError, KeyError) as error:
        raise BadImage(f"its .npy header is damaged, or of a later version ({error})") from error
    if dtype.hasobject:
        raise BadImage("an array of Python objects, which is not opened since it could run code; save it as numbers")
    start, needed = file.tell(), math.prod(shape) * dtype.itemsize
    if len(content) - start != needed:
        raise BadImage(
            f"states {needed:,} bytes of values and holds {len(content) - start:,}: cut off, or another file"
        )

    def load() -> NDArray[Any]:
        return np.frombuffer(content, dtype, offset=start).reshape(shape, order="F" if in_columns else "C")

    return _array_file(shape, dtype, load, channels)


def _array_file(
    shape: tuple[int, ...], dtype: np.dtype[Any], load: Callable[[], NDArray[Any]], channels: int | None
) -> ArrayFile:
    """An array that does not say which of its axes is which."""
    require_integers(dtype)
    if len(shape) == 2:
        return ArrayFile(*shape, 1, dtype, False, "", lambda: load()[..., None])
    said = " x ".join(map(str, shape))
    if len(shape) != 3:
        raise BadImage(f"an array of shape {said or 'of one number'}, allowed: two axes, or three with one of channels")
    found = [axis for axis in (2, 0) if (shape[axis] == channels if channels else 1 <= shape[axis] <= MAX_CHANNELS)]
    if not found:
        raise BadImage(f"shape {said} has no axis of {channels or f'1 to {MAX_CHANNELS}'} channels")
    if len(found) > 1 and not channels:
        raise BadImage(f"shape {said} does not tell which axis is that of the channels; say --channels NUMBER")
    axis = found[0]
    height, width = shape[:2] if axis == 2 else shape[1:]
    return ArrayFile(height, width, shape[axis], dtype, False, "", lambda: np.moveaxis(load(), axis, 2))


def require_integers(dtype: np.dtype[Any]) -> None:
    """BadImage for values that do not say what black and white are."""
    if dtype.newbyteorder("=") not in (np.uint8, np.uint16):
        raise BadImage(f"{dtype.name} values have no stated range, allowed: uint8 and uint16")


def _open_tiff(content: bytes, channels: int | None) -> ArrayFile:
    from tifffile import TiffFile  # a package of its own, which few data sets need

    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # what keeps it from reading is said once, by name
    tiff = TiffFile(io.BytesIO(content), is_ome=False)
    pages: list[Any] = list(tiff.pages)
    first, count = pages[0], pages[0].samplesperpixel
    height, width, photometric = first.imagelength, first.imagewidth, int(first.photometric)
    if photometric not in (*_GREY, _RGB):  # palettes, ink, video: RGB is made of them, or nothing
        if channels or count not in (1, 3, 4):
            name = getattr(first.photometric, "name", photometric)
            raise BadImage(f"its values are {name}, allowed: grey, RGB or channels; convert it")
        return ArrayFile(height, width, count, np.dtype(np.uint8), True, "", lambda: _values(first, content))
    dtype = np.dtype(first.dtype or object)
    is_stack = count == 1 and len(pages) > 1 and (channels > 1 if channels else _states_planes(tiff, len(pages)))
    if is_stack:
        if any((page.shape, page.dtype) != (first.shape, first.dtype) for page in pages):
            raise BadImage(f"its {len(pages)} pages are not of one size and kind; split them")
        shape = (len(pages), height, width)
        return _array_file(shape, dtype, lambda: np.stack([_values(page, content)[..., 0] for page in pages]), channels)
    is_picture = count == 1 or (photometric == _RGB and count <= 4)
    if channels or not is_picture:
        require_integers(dtype)
    if count > MAX_CHANNELS:
        raise BadImage(f"{count} channels, allowed: 1 to {MAX_CHANNELS}")
    note = _note(first, len(pages), dtype) if is_picture else ""
    return ArrayFile(height, width, count, dtype, is_picture, note, lambda: _values(first, content))


def _states_planes(tiff: Any, num_pages: int) -> bool:
    """Whether the writer says that the pages are the channels of one image (numpy's arrays, ImageJ, OME)."""
    if shaped := tiff.shaped_metadata:
        return math.prod(shaped[0]["shape"][:-2]) == num_pages and len(shaped[0]["shape"]) == 3
    if tiff.is_imagej:
        return (tiff.imagej_metadata or {}).get("channels") == num_pages
    stated = re.search(r'SizeC="(\d+)"', tiff.pages[0].description or "")  # OME's XML is not parsed for it
    return stated is not None and int(stated[1]) == num_pages


def _note(page: Any, num_pages: int, dtype: np.dtype[Any]) -> str:
    if num_pages > 1:
        return f"has {num_pages} pages, of which the first is taken; if they are channels, say --channels {num_pages}"
    if page.samplesperpixel == 4 and not any(int(extra) for extra in page.extrasamples):
        return "has a fourth channel that is not said to be transparency, and is left out; --channels 4 keeps it"
    if dtype.itemsize == 2:
        return f"has 16 bits, of which 8 are kept; --channels {page.samplesperpixel} keeps all, as no colours"
    return ""


def _values(page: Any, content: bytes) -> NDArray[Any]:
    """The values of a page, height x width x channels, upright; BadImage where the file does not hold them all."""
    _require_whole(page, len(content))
    if page.compression in _DEFLATE:
        _require_inflates(page, content)
    elif page.compression != _PLAIN and importlib.util.find_spec("imagecodecs") is None:
        name = getattr(page.compression, "name", page.compression)
        raise BadImage(f"compressed by {name}; save it with deflate or without compression, or pip install imagecodecs")
    values: NDArray[Any] = page.asarray()
    if page.axes == "SYX":
        values = np.moveaxis(values, 0, 2)
    values = values.reshape(page.imagelength, page.imagewidth, page.samplesperpixel)
    if page.photometric == _GREY[0]:
        values = np.iinfo(values.dtype).max - values
    orientation = page.tags.valueof("Orientation", 1)
    return _ORIENTATIONS[orientation](values) if orientation in _ORIENTATIONS else values


def _require_whole(page: Any, num_bytes: int) -> None:
    """BadImage where stretches of values are not in the file: tifffile would take zeros for them."""
    pieces = list(zip(page.dataoffsets, page.databytecounts, strict=True))
    inside = all(start > 0 and size > 0 and start + size <= num_bytes for start, size in pieces)
    if not inside or (page.compression == _PLAIN and sum(size for _, size in pieces) < page.nbytes):
        raise BadImage("cut off: some of its values are not in the file")
    if len(pieces) != math.prod(page.chunked):
        raise BadImage(f"{len(pieces)} stretches of values, needed: {math.prod(page.chunked)}")


def _require_inflates(page: Any, content: bytes) -> None:
    """BadImage where a compressed stretch is damaged or cut, or becomes more than it may: it could fill the memory."""
    most = math.prod(page.chunks) * page.dtype.itemsize
    total = 0
    for start, size in zip(page.dataoffsets, page.databytecounts, strict=True):
        stream = zlib.decompressobj()
        try:
            total += len(stream.decompress(content[start : start + size], most))
        except zlib.error as error:
            raise BadImage(f"its compressed values are damaged ({error})") from error
        if stream.unconsumed_tail and stream.decompress(stream.unconsumed_tail, 1):
            raise BadImage(f"a compressed stretch holds more than its {most:,} bytes (decompression bomb?)")
    if total < page.nbytes:
        raise BadImage("its compressed values end early")
