"""The header of a beton and its two tables, read in parts: what its samples are, and where their bytes lie.

Stands apart from `beton.py`, which makes the file contract of it. No more than some rows of a table are held at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from dataprep.beton.bytes import REWRITE, BetonBytes, BetonError, runs
from dataprep.beton.layout import (
    ALLOCATION,
    DESCRIPTOR,
    FIELD_METADATA,
    FORMAT_VERSION,
    HEADER,
    IMAGE_RAW,
    TYPE_ARRAY,
    TYPE_BYTES,
    TYPE_IMAGE,
    TYPE_INT,
    read_format,
    vector_length,
)
from dataprep.beton.pixel_format import RGB, PixelFormat

CLIP_NUMBERS = ("fold", "recording")
"""Fields that say of a clip of sound in which fold of its data set it is (0: none), and of which recording it is."""
ROWS = 1 << 16
"""Rows of metadata or of the allocation table that are read at a time."""


def table(file: BetonBytes, start: int, num_rows: int, row: np.dtype[Any]) -> Iterator[tuple[slice, NDArray[Any]]]:
    """The rows of a table that starts at byte `start`, some at a time, and which they are."""
    for first in range(0, num_rows, ROWS):
        part = slice(first, min(first + ROWS, num_rows))
        yield part, file.read(start + first * row.itemsize, (part.stop - first) * row.itemsize).view(row)


def read_header(file: BetonBytes) -> np.void:
    """The header; BetonError for anything but a finished, whole file of the known version."""
    path, num_bytes = file.path, file.size
    if num_bytes < HEADER.itemsize:
        raise BetonError(f"{path}: {num_bytes} bytes are no beton (cut off?); {REWRITE}")
    header: np.void = file.read(0, HEADER.itemsize).view(HEADER)[0]
    if header["version"] != FORMAT_VERSION or not 0 < header["num_fields"] <= 256:
        raise BetonError(f"{path}: not a beton of version {FORMAT_VERSION} (found {header['version']}); {REWRITE}")
    pointer, num_samples = int(header["alloc_table_ptr"]), int(header["num_samples"])
    if pointer == 0:
        raise BetonError(f"{path}: never finished (its allocation table is missing); {REWRITE}")
    if num_samples == 0:
        raise BetonError(f"{path}: no samples; {REWRITE}")
    table_bytes = num_bytes - pointer
    if table_bytes < num_samples * ALLOCATION.itemsize or table_bytes % ALLOCATION.itemsize:
        missing = pointer + num_samples * ALLOCATION.itemsize - num_bytes
        what = f"cut off, {missing:,} of its bytes are missing" if missing > 0 else "damaged at its end"
        raise BetonError(f"{path}: {what}; copy or {REWRITE}")
    page_size = int(header["page_size"])
    if page_size == 0 or page_size & (page_size - 1):
        raise BetonError(f"{path}: its header is damaged (page size {page_size}, allowed: a power of two); {REWRITE}")
    return header


@dataclass(frozen=True)
class Fields:
    kinds: dict[str, int]
    """FFCV's type of each field, by its name; `image` or `sound`, and `label`, are among them."""
    label_length: int
    """Length of the label vectors; 0 where a label is a class."""
    start: int
    """Where the metadata begin."""
    record: np.dtype[Any]
    """The metadata of one sample."""
    pixels: PixelFormat
    """What its image consists of."""


def read_fields(file: BetonBytes, header: np.void) -> Fields:
    """What a sample's metadata consist of."""
    path, end = file.path, int(header["alloc_table_ptr"])
    start = HEADER.itemsize + int(header["num_fields"]) * DESCRIPTOR.itemsize
    if start > end:
        raise BetonError(f"{path}: its header is damaged (field descriptors would overlap the data); {REWRITE}")
    descriptors = file.read(HEADER.itemsize, start - HEADER.itemsize).view(DESCRIPTOR)
    names = tuple(descriptor["name"].decode("ascii", "replace") for descriptor in descriptors)
    kinds = dict(zip(names, descriptors["type_id"].tolist(), strict=True))
    unknown = [name for name, kind in kinds.items() if kind not in FIELD_METADATA]
    if unknown or len(kinds) < len(names):
        raise BetonError(f"{path}: its fields {unknown or names} are none that FFCV defines; {REWRITE}")
    pixels = _pixels(file, kinds, descriptors)
    if pixels is None or kinds.get("label") not in (TYPE_INT, TYPE_ARRAY):
        needed = "`image` (RGB image) or `sound`, and `label` (integer, or vector of int8)"
        raise BetonError(f"{path}: has fields {names}, needed: {needed}; {REWRITE}")
    record = np.dtype([(name, FIELD_METADATA[kind]) for name, kind in kinds.items()], align=True)
    if start + int(header["num_samples"]) * record.itemsize > end:
        raise BetonError(f"{path}: its header is damaged (metadata would overlap the allocation table); {REWRITE}")
    if kinds["label"] == TYPE_INT:
        return Fields(kinds, 0, start, record, pixels)
    length = vector_length(descriptors["arguments"][names.index("label")])
    if length is None:
        raise BetonError(f"{path}: its labels are arrays, but not vectors of int8; {REWRITE}")
    return Fields(kinds, length, start, record, pixels)


def _pixels(file: BetonBytes, kinds: dict[str, int], descriptors: NDArray[Any]) -> PixelFormat | None:
    """What the field `image` or `sound` holds; None where there is neither."""
    if kinds.get("image") == TYPE_IMAGE:
        return RGB
    name = "sound" if "sound" in kinds else "image"
    sides = ("samples", *CLIP_NUMBERS) if name == "sound" else ("width", "height")
    if kinds.get(name) != TYPE_BYTES or any(kinds.get(side) != TYPE_INT for side in sides):
        return None
    try:
        pixels = read_format(descriptors["arguments"][list(kinds).index(name)])
        if pixels.is_sound != (name == "sound"):
            raise ValueError(f"{pixels} in the field `{name}`")
    except ValueError as error:
        raise BetonError(f"{file.path}: its header does not say what its {name}s are ({error}); {REWRITE}") from error
    return pixels


def image_metadata(rows: NDArray[Any], pixels: PixelFormat) -> Mapping[str, NDArray[Any]] | NDArray[Any]:
    """Columns `mode`, `width`, `height` and `data_ptr` of some rows of the metadata."""
    if pixels.is_rgb:
        rgb: NDArray[Any] = rows["image"]
        return rgb
    mode = np.full(len(rows), IMAGE_RAW, np.uint8)
    if pixels.is_sound:
        height = np.ones(len(rows), np.int64)
        return {"mode": mode, "width": rows["samples"], "height": height, "data_ptr": rows["sound"]["ptr"]}
    return {"mode": mode, "width": rows["width"], "height": rows["height"], "data_ptr": rows["image"]["ptr"]}


def read_vectors(file: BetonBytes, table_start: int, pointers: NDArray[np.uint64], length: int) -> NDArray[np.int8]:
    """The label vectors (N, length) from where the metadata point to."""
    outside = int((pointers > max(table_start - length, 0)).sum())
    if length > table_start or outside:
        raise BetonError(f"{file.path}: {outside} label vectors lie outside the data; {REWRITE}")
    vectors = np.empty((len(pointers), length), np.int8)
    order = np.argsort(pointers)
    starts = pointers[order].astype(np.int64)
    for run in runs(starts, np.full(len(starts), length)):
        first = int(starts[run.start])
        content = file.read(first, int(starts[run.stop - 1]) + length - first)
        vectors[order[run]] = sliding_window_view(content, length)[starts[run] - first].view(np.int8)
    return vectors


def image_sizes(file: BetonBytes, table_start: int, pointers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Bytes of each image, from the allocation table; 0 where that does not list the image."""
    num_rows = (file.size - table_start) // ALLOCATION.itemsize
    sizes = np.empty_like(pointers)
    for part, rows in table(file, table_start, len(pointers), ALLOCATION):
        if not np.array_equal(rows["ptr"], pointers[part]):
            break
        sizes[part] = rows["size"]
    else:
        return sizes  # the table lists the images in their order, as this suite's writer does
    starts, found = np.empty(num_rows, np.uint64), np.empty(num_rows, np.uint64)
    for part, rows in table(file, table_start, num_rows, ALLOCATION):
        starts[part], found[part] = rows["ptr"], rows["size"]
    order = np.argsort(starts)
    places = order[np.minimum(np.searchsorted(starts, pointers, sorter=order), num_rows - 1)]
    return np.where(starts[places] == pointers, found[places], np.uint64(0))
