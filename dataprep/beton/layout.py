"""FFCV's file format, version 2, as numpy sees it: what the reader (beton.py) and the writer (beton_file.py) share.

Header, field descriptors, metadata (one record per sample), page-aligned data, allocation table at the end. A label
vector is a field of FFCV's NDArrayField: its values are data like an image's, and the metadata point to them. Of images
that are not RGB (`pixel_format.py`) the arguments of the field `image`, of which FFCV makes no use, say channels and
bits; those of the field `sound` its rate.
"""

from __future__ import annotations

import json

import numpy as np
from numpy.typing import NDArray

from dataprep.beton.pixel_format import PixelFormat, channels_format, sound_format

FORMAT_VERSION = 2
MIN_PAGE_SIZE = 1 << 21

HEADER = np.dtype(
    [
        ("version", "<u2"),
        ("num_fields", "<u2"),
        ("page_size", "<u4"),
        ("num_samples", "<u8"),
        ("alloc_table_ptr", "<u8"),
    ],
    align=True,
)
DESCRIPTOR = np.dtype([("type_id", "u1"), ("name", "S16"), ("arguments", "u1", (1024,))], align=True)
ALLOCATION = np.dtype([("sample_id", "<u8"), ("ptr", "<u8"), ("size", "<u8")])
IMAGE_METADATA = np.dtype([("mode", "u1"), ("width", "<u2"), ("height", "<u2"), ("data_ptr", "<u8")])
IMAGE_JPEG = 0
IMAGE_RAW = 1

TYPE_INT = 1
TYPE_IMAGE = 2
TYPE_BYTES = 3
TYPE_ARRAY = 4
BYTES_METADATA = np.dtype([("ptr", "<u8"), ("size", "<u8")])
FIELD_METADATA = {
    0: np.dtype("<f8"),  # float
    TYPE_INT: np.dtype("<i8"),
    TYPE_IMAGE: IMAGE_METADATA,
    TYPE_BYTES: BYTES_METADATA,
    TYPE_ARRAY: np.dtype("<u8"),
    5: BYTES_METADATA,  # JSON
    6: np.dtype("<u8"),  # tensor
}
_RATE = slice(2, 6)  # of a format's arguments
_ARRAY_ARGUMENTS = np.dtype([("shape", "<u8", (32,)), ("dtype_bytes", "<u8")])


def vector_arguments(length: int) -> NDArray[np.uint8]:
    """The descriptor's arguments of an NDArrayField of `length` int8 values: shape, then numpy's dtype as JSON."""
    dtype = np.frombuffer(json.dumps(np.dtype(np.int8).descr).encode("ascii"), np.uint8)
    fixed = np.zeros(1, _ARRAY_ARGUMENTS)
    fixed["shape"][0, 0] = length
    fixed["dtype_bytes"] = len(dtype)
    arguments = np.zeros(DESCRIPTOR["arguments"].shape, np.uint8)
    arguments[: fixed.nbytes] = fixed.view(np.uint8)
    arguments[fixed.nbytes : fixed.nbytes + len(dtype)] = dtype
    return arguments


def vector_length(arguments: NDArray[np.uint8]) -> int | None:
    """The length that `vector_arguments` wrote; None when these are the arguments of any other array."""
    length = int(arguments[: _ARRAY_ARGUMENTS.itemsize].view(_ARRAY_ARGUMENTS)[0]["shape"][0])
    return length if length > 0 and np.array_equal(arguments, vector_arguments(length)) else None


def format_arguments(pixels: PixelFormat) -> NDArray[np.uint8]:
    """The descriptor's arguments of the field `image` where it holds bytes: channels, bits, the rate of sound."""
    arguments = np.zeros(DESCRIPTOR["arguments"].shape, np.uint8)
    arguments[:2] = pixels.channels, pixels.bits
    arguments[_RATE] = np.array([pixels.rate_hz], "<u4").view(np.uint8)
    return arguments


def read_format(arguments: NDArray[np.uint8]) -> PixelFormat:
    """What `format_arguments` wrote; ValueError for anything else."""
    rate_hz = int(arguments[_RATE].view("<u4")[0])
    pixels = sound_format(rate_hz) if rate_hz else channels_format(int(arguments[0]), int(arguments[1]))
    if not np.array_equal(arguments, format_arguments(pixels)):
        raise ValueError("unknown arguments")
    return pixels
