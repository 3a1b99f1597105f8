"""The file contract of a beton: header checks, per-sample metadata, decoding, and the manifest beside it.

FFCV's own reader accepts a file whose writer never finished (it takes the whole file for the allocation table) and
fails on a cut one with numpy's "negative dimensions". This reader checks first and says what is wrong. It needs numpy
and Pillow only, so betons open on machines where FFCV cannot be installed.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from PIL import Image

from dataprep.beton_layout import (
    ALLOCATION,
    DESCRIPTOR,
    FIELD_METADATA,
    FORMAT_VERSION,
    HEADER,
    TYPE_ARRAY,
    TYPE_IMAGE,
    TYPE_INT,
    vector_length,
)

MANIFEST_SCHEMA = 1
IMAGE_JPEG = 0
IMAGE_RAW = 1
_REWRITE = "write it again with dataprep/write_ffcv.py"


class BetonError(ValueError):
    """A beton or its manifest is damaged, unfinished or not what was asked for."""


@dataclass(frozen=True, eq=False)
class Beton:
    """An open beton: `memory` is the file, the arrays describe its samples in the order of the file."""

    path: Path
    num_samples: int
    page_size: int
    field_names: tuple[str, ...]
    memory: NDArray[np.uint8]
    modes: NDArray[np.uint8]
    widths: NDArray[np.uint16]
    heights: NDArray[np.uint16]
    pointers: NDArray[np.uint64]
    sizes: NDArray[np.uint64]
    labels: NDArray[Any]
    """(N,) int64, a class each; or (N, K) int8, for each of K classes 1 (present), -1 (absent), 0 (only difficult)."""

    def image_bytes(self, sample: int) -> NDArray[np.uint8]:
        """The stored bytes of a sample's image: a JPEG file, or height x width x 3 values."""
        start = int(self.pointers[sample])
        return self.memory[start : start + int(self.sizes[sample])]

    def decode(self, sample: int) -> NDArray[np.uint8]:
        """A sample's image as height x width x 3 RGB; BetonError when it does not decode to its stated size."""
        width, height = int(self.widths[sample]), int(self.heights[sample])
        stored = self.image_bytes(sample)
        if self.modes[sample] == IMAGE_RAW:
            return stored.reshape(height, width, 3)
        try:
            with Image.open(io.BytesIO(stored.tobytes()), formats=["JPEG"]) as image:
                pixels = np.array(image.convert("RGB"))
        except (OSError, ValueError, SyntaxError) as error:
            raise BetonError(f"{self.path}: sample {sample} does not decode ({error}); {_REWRITE}") from error
        if pixels.shape != (height, width, 3):
            found = f"{pixels.shape[1]} x {pixels.shape[0]}"
            raise BetonError(f"{self.path}: sample {sample} is {found} pixels, stated {width} x {height}; {_REWRITE}")
        return pixels

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled as its path: another process maps the file again instead of receiving a copy."""
        return open_beton, (self.path,)


def open_beton(path: Path) -> Beton:
    """Map a beton with the fields `image` and `label`; BetonError names what is wrong and its cure."""
    path = Path(path)
    if not path.is_file():
        raise BetonError(f"{path}: no such file; write it with dataprep/write_ffcv.py")
    if path.stat().st_size < HEADER.itemsize:
        raise BetonError(f"{path}: {path.stat().st_size} bytes are no beton (cut off?); {_REWRITE}")
    memory = np.asarray(np.memmap(path, np.uint8, mode="r"))
    header = memory[: HEADER.itemsize].view(HEADER)[0]
    _check_header(path, header, memory.size)
    table_start = int(header["alloc_table_ptr"])
    fields = _read_fields(path, header, memory)
    images, table = fields["image"].metadata, memory[table_start:].view(ALLOCATION)
    return Beton(
        path=path,
        num_samples=int(header["num_samples"]),
        page_size=int(header["page_size"]),
        field_names=tuple(fields),
        memory=memory,
        modes=np.ascontiguousarray(images["mode"]),
        widths=np.ascontiguousarray(images["width"]),
        heights=np.ascontiguousarray(images["height"]),
        pointers=np.ascontiguousarray(images["data_ptr"]),
        sizes=_image_sizes(path, images, table, table_start),
        labels=_read_labels(path, fields["label"], memory[:table_start]),
    )


def _check_header(path: Path, header: np.void, num_bytes: int) -> None:
    """Refuse anything but a finished, whole file of the known version."""
    if header["version"] != FORMAT_VERSION or not 0 < header["num_fields"] <= 256:
        raise BetonError(f"{path}: not a beton of version {FORMAT_VERSION} (found {header['version']}); {_REWRITE}")
    pointer, num_samples = int(header["alloc_table_ptr"]), int(header["num_samples"])
    if pointer == 0:
        raise BetonError(f"{path}: never finished (its allocation table is missing); {_REWRITE}")
    if num_samples == 0:
        raise BetonError(f"{path}: no samples; {_REWRITE}")
    table_bytes = num_bytes - pointer
    if table_bytes < num_samples * ALLOCATION.itemsize or table_bytes % ALLOCATION.itemsize:
        missing = pointer + num_samples * ALLOCATION.itemsize - num_bytes
        what = f"cut off, {missing:,} of its bytes are missing" if missing > 0 else "damaged at its end"
        raise BetonError(f"{path}: {what}; copy or {_REWRITE}")
    page_size = int(header["page_size"])
    if page_size == 0 or page_size & (page_size - 1):
        raise BetonError(f"{path}: its header is damaged (page size {page_size}, allowed: a power of two); {_REWRITE}")


@dataclass(frozen=True)
class _Field:
    type_id: int
    arguments: NDArray[np.uint8]
    metadata: NDArray[Any]


def _read_fields(path: Path, header: np.void, memory: NDArray[np.uint8]) -> dict[str, _Field]:
    """The fields by name, `image` and `label` among them."""
    start = HEADER.itemsize + int(header["num_fields"]) * DESCRIPTOR.itemsize
    if start > int(header["alloc_table_ptr"]):
        raise BetonError(f"{path}: its header is damaged (field descriptors would overlap the data); {_REWRITE}")
    descriptors = memory[HEADER.itemsize : start].view(DESCRIPTOR)
    kinds = [int(descriptor["type_id"]) for descriptor in descriptors]
    names = tuple(descriptor["name"].decode("ascii", "replace") for descriptor in descriptors)
    unknown = [name for name, kind in zip(names, kinds, strict=True) if kind not in FIELD_METADATA]
    if unknown or not names:
        raise BetonError(f"{path}: its fields {unknown} are of a type that FFCV does not define; {_REWRITE}")
    wanted = dict(zip(names, kinds, strict=True))
    if wanted.get("image") != TYPE_IMAGE or wanted.get("label") not in (TYPE_INT, TYPE_ARRAY):
        needed = "`image` (RGB image) and `label` (integer, or vector of int8)"
        raise BetonError(f"{path}: has fields {names}, needed: {needed}; {_REWRITE}")
    record = np.dtype([("", FIELD_METADATA[kind]) for kind in kinds], align=True)
    end = start + int(header["num_samples"]) * record.itemsize
    if end > int(header["alloc_table_ptr"]):
        raise BetonError(f"{path}: its header is damaged (metadata would overlap the allocation table); {_REWRITE}")
    metadata = memory[start:end].view(record)
    columns = zip(names, kinds, descriptors["arguments"], record.names or (), strict=True)
    return {name: _Field(kind, arguments, metadata[column]) for name, kind, arguments, column in columns}


def _read_labels(path: Path, field: _Field, data: NDArray[np.uint8]) -> NDArray[Any]:
    """Labels from the metadata, or label vectors from where these point to in `data`, the file up to its table."""
    if field.type_id == TYPE_INT:
        return np.ascontiguousarray(field.metadata)
    length = vector_length(field.arguments)
    if length is None:
        raise BetonError(f"{path}: its labels are arrays, but not vectors of int8; {_REWRITE}")
    outside = np.flatnonzero(field.metadata > max(len(data) - length, 0))
    if length > len(data) or outside.size:
        raise BetonError(f"{path}: {outside.size} label vectors lie outside the data; {_REWRITE}")
    vectors: NDArray[np.int8] = sliding_window_view(data, length)[field.metadata].view(np.int8)
    return vectors


def _image_sizes(path: Path, images: NDArray[Any], table: NDArray[Any], table_start: int) -> NDArray[np.uint64]:
    """Bytes of each image, from the allocation table; every image must lie inside the data and be of a known mode."""
    order = np.argsort(table["ptr"])
    starts, sizes = table["ptr"][order], table["size"][order]
    rows = np.minimum(np.searchsorted(starts, images["data_ptr"]), len(starts) - 1)
    found = np.ascontiguousarray(sizes[rows], dtype=np.uint64)
    raw = images["mode"] == IMAGE_RAW
    pixels_bytes = images["width"].astype(np.uint64) * images["height"] * np.uint64(3)
    bad = (starts[rows] != images["data_ptr"]) | (found > table_start) | (images["data_ptr"] > table_start - found)
    bad |= images["mode"] > IMAGE_RAW
    bad |= raw & (found != pixels_bytes)
    if bad.any():
        first = int(np.flatnonzero(bad)[0])
        raise BetonError(f"{path}: {int(bad.sum())} samples have damaged metadata, the first is {first}; {_REWRITE}")
    return found


def manifest_path(beton: Path) -> Path:
    """Where a beton's manifest lies: train.beton -> train.beton.json."""
    return beton.with_name(beton.name + ".json")


def read_manifest(beton: Path) -> dict[str, Any]:
    """A beton's manifest without its `samples` (see `manifest_samples`); BetonError when missing or damaged."""
    path = manifest_path(beton)
    try:
        with path.open(encoding="utf-8") as file:
            head = []
            for line in file:
                if line.startswith('"samples":'):
                    head.append('"samples": []}')
                    break
                head.append(line)
        manifest: dict[str, Any] = json.loads("".join(head))
    except FileNotFoundError as error:
        raise BetonError(f"{path}: no such file; a beton written by this suite has its manifest beside it") from error
    except ValueError as error:
        raise BetonError(f"{path}: damaged ({error}); {_REWRITE}") from error
    if manifest.get("schema") != MANIFEST_SCHEMA:
        found = manifest.get("schema")
        raise BetonError(f"{path}: manifest schema is {found!r}, this version reads {MANIFEST_SCHEMA}; {_REWRITE}")
    del manifest["samples"]
    return manifest


def manifest_samples(beton: Path) -> Iterator[tuple[str, int]]:
    """Relative path and CRC-32 of each sample, one line at a time: the list of a million samples is never held."""
    path = manifest_path(beton)
    with path.open(encoding="utf-8") as file:
        for line in file:
            if line.startswith('"samples":'):
                break
        for line in file:
            if line.startswith("]"):
                return
            try:
                name, crc = json.loads(line.rstrip().rstrip(","))
            except ValueError as error:
                raise BetonError(f"{path}: damaged line {line[:80]!r}; {_REWRITE}") from error
            yield name, crc
    raise BetonError(f"{path}: ends before its list of samples does; {_REWRITE}")
