"""Betons of any number of samples in seconds: the writer's file layout, filled by numpy with what it is given.

For measuring what depends on the number of samples or of bytes and not on what the images show; also used by tests.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dataprep.beton.layout import (
    ALLOCATION,
    DESCRIPTOR,
    FORMAT_VERSION,
    HEADER,
    IMAGE_METADATA,
    MIN_PAGE_SIZE,
    TYPE_IMAGE,
    TYPE_INT,
)

_RECORD = np.dtype([("image", IMAGE_METADATA), ("label", "<i8")], align=True)
_CHUNK = 1 << 24


def tiny_jpeg(side: int = 8) -> bytes:
    """A small JPEG."""
    content = io.BytesIO()
    Image.fromarray(np.arange(side * side * 3, dtype=np.uint8).reshape(side, side, 3)).save(content, "JPEG")
    return content.getvalue()


def write_synthetic(
    path: Path, contents: Sequence[bytes], labels: NDArray[np.int64], side: int, *, raw: bool, scatter: bool = False
) -> None:
    """A beton with a sample for each label; sample i stores contents[i % len(contents)], an image of side x side.

    raw: the contents are pixels, not JPEGs. scatter: samples lie in the file in a random order, not in their own.
    """
    num, sizes = len(labels), np.array([len(content) for content in contents])
    stride = 1 << int(sizes.max() - 1).bit_length()  # a power of two: no sample straddles a page
    start = -(-(HEADER.itemsize + 2 * DESCRIPTOR.itemsize + num * _RECORD.itemsize) // MIN_PAGE_SIZE) * MIN_PAGE_SIZE
    places = np.random.default_rng(0).permutation(num) if scatter else np.arange(num)
    which = np.arange(num) % len(contents)
    header, descriptors = np.zeros(1, HEADER), np.zeros(2, DESCRIPTOR)
    header[0] = (FORMAT_VERSION, 2, max(MIN_PAGE_SIZE, stride), num, start + num * stride)
    descriptors["name"], descriptors["type_id"] = [b"image", b"label"], [TYPE_IMAGE, TYPE_INT]
    records, table = np.zeros(num, _RECORD), np.zeros(num, ALLOCATION)
    records["image"]["mode"], records["label"] = raw, labels
    records["image"]["width"] = records["image"]["height"] = side
    records["image"]["data_ptr"] = start + places * stride
    inverse = np.argsort(places)  # the table has the order of the file
    table["sample_id"], table["ptr"], table["size"] = inverse, start + np.arange(num) * stride, sizes[which[inverse]]
    slots = np.zeros((len(contents), stride), np.uint8)
    for slot, content in zip(slots, contents, strict=True):
        slot[: len(content)] = np.frombuffer(content, np.uint8)
    with path.open("wb") as file:
        file.write(header.tobytes() + descriptors.tobytes() + records.tobytes())
        file.seek(start)
        per_chunk = max(1, _CHUNK // stride)
        for first in range(0, num, per_chunk):
            file.write(slots[which[inverse[first : first + per_chunk]]].data)
        file.write(table.tobytes())
