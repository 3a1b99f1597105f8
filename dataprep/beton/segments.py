"""The class of every pixel of an image as a beton holds it: height, width, and the compressed classes, in one field.

The field is FFCV's BytesField, beside those of objects.py.
"""

from __future__ import annotations

import zlib

import numpy as np
from numpy.typing import NDArray

SEGMENTS = "segments"
"""Name of the field."""
VOID = 255
"""Of pixels that are of no class, or of an unknown one: nothing is learned from them, and they do not count."""
_SIZE = np.dtype([("height", "<u4"), ("width", "<u4")])


class BadSegments(ValueError):
    """The bytes of a field are not what `encode_segments` writes."""


def encode_segments(classes: NDArray[np.uint8]) -> bytes:
    """The classes (height, width) as the bytes of a field."""
    return np.array(classes.shape, "<u4").tobytes() + zlib.compress(np.ascontiguousarray(classes).tobytes(), 6)


def decode_segments(stored: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """The way back; BadSegments where the bytes are none, or those of another size."""
    if len(stored) < _SIZE.itemsize:
        raise BadSegments(f"{len(stored)} bytes, and no size")
    size = stored[: _SIZE.itemsize].view(_SIZE)[0]
    if (int(size["height"]), int(size["width"])) != (height, width):
        raise BadSegments(f"classes of {size['width']} x {size['height']} pixels, the image has {width} x {height}")
    unpacking = zlib.decompressobj()
    try:
        content = unpacking.decompress(stored[_SIZE.itemsize :].tobytes(), height * width + 1)
    except zlib.error as error:
        raise BadSegments(f"its classes cannot be unpacked ({error})") from error
    if len(content) != height * width or not unpacking.eof:
        raise BadSegments(f"classes of {len(content):,} pixels or more, the image has {height * width:,}")
    return np.frombuffer(content, np.uint8).reshape(height, width)


def unknown_class(classes: NDArray[np.uint8], num_classes: int) -> str:
    """Which class there should not be; empty if all are known."""
    found = np.flatnonzero(np.bincount(classes.ravel(), minlength=256)[:VOID])
    return f"class {found[-1]} is none of {num_classes}" if len(found) and found[-1] >= num_classes else ""


def shown(classes: NDArray[np.uint8], num_classes: int) -> NDArray[np.int8]:
    """The label vector (num_classes,) of an image: 1 for classes that some pixel shows, else -1."""
    label = np.full(num_classes, -1, np.int8)
    label[np.bincount(classes.ravel(), minlength=256)[:num_classes] > 0] = 1
    return label
