"""The layout of a beton while it is being written: samples go to pages one after the other, the header goes last.

FFCV reads pages (its process cache) and needs every sample to lie inside one. The page size grows with the largest
sample: pages of twice the size are unions of the smaller ones, so what was written before stays inside a page.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Sequence
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from dataprep.beton.layout import (
    ALLOCATION,
    DESCRIPTOR,
    FIELD_METADATA,
    FORMAT_VERSION,
    HEADER,
    MIN_PAGE_SIZE,
    TYPE_ARRAY,
    TYPE_BYTES,
    TYPE_IMAGE,
    TYPE_INT,
    format_arguments,
    vector_arguments,
)
from dataprep.beton.pixel_format import RGB, PixelFormat
from dataprep.beton.tables import CLIP_NUMBERS
from dataprep.writing.sample_encoding import Encoded

MAX_SAMPLE_BYTES = 1 << 31  # a page must be under 4 GiB
_TYPE_IDS = {"RGBImageField": TYPE_IMAGE, "IntField": TYPE_INT, "NDArrayField": TYPE_ARRAY, "BytesField": TYPE_BYTES}
_SIDES = ("width", "height")
_CLIP_FIELDS = ("samples", *CLIP_NUMBERS)


class BetonFile:
    """A beton of up to `num_reserved` samples on an open file; unreadable to everyone until `finish`.

    label_length: 0 for labels that are classes; else the length of the label vectors, which go behind the images, so
    that a reader finds them all in one place. Images that are not RGB have their sides in fields of their own, sound
    its length, fold and recording.
    more_fields: names of fields of bytes, which lie behind the sample's image.
    """

    def __init__(
        self,
        file: BinaryIO,
        num_reserved: int,
        label_length: int = 0,
        pixels: PixelFormat = RGB,
        more_fields: Sequence[str] = (),
    ) -> None:
        self._main = "sound" if pixels.is_sound else "image"
        self._sides = () if pixels.is_rgb else _CLIP_FIELDS if pixels.is_sound else _SIDES
        self.fields = {
            self._main: "RGBImageField" if pixels.is_rgb else "BytesField",
            "label": "NDArrayField" if label_length else "IntField",
            "index": "IntField",
            **dict.fromkeys(self._sides, "IntField"),
            **dict.fromkeys(more_fields, "BytesField"),
        }
        self._more_fields = tuple(more_fields)
        self._file = file
        self._is_rgb = pixels.is_rgb
        kinds = {name: FIELD_METADATA[_TYPE_IDS[kind]] for name, kind in self.fields.items()}
        kinds["label"] = FIELD_METADATA[TYPE_INT]  # a class, or where its vector lies
        self._records = np.zeros(num_reserved, np.dtype(list(kinds.items()), align=True))
        self._vectors = np.zeros((num_reserved, label_length), np.int8)
        self._rows = np.zeros((2 + len(more_fields), num_reserved), ALLOCATION)  # images, label vectors, further fields
        self.crcs = np.zeros(num_reserved, np.uint32)
        self.num_samples = 0
        self.page_size = MIN_PAGE_SIZE
        descriptors = np.zeros(len(self.fields), DESCRIPTOR)
        descriptors["name"] = [name.encode() for name in self.fields]
        descriptors["type_id"] = [_TYPE_IDS[kind] for kind in self.fields.values()]
        if label_length:
            descriptors["arguments"][list(self.fields).index("label")] = vector_arguments(label_length)
        if not pixels.is_rgb:
            descriptors["arguments"][0] = format_arguments(pixels)
        self._descriptors = descriptors.tobytes()
        self.head_bytes = HEADER.itemsize + len(self._descriptors) + self._records.nbytes
        self.num_bytes = self.head_bytes + -self.head_bytes % MIN_PAGE_SIZE
        file.seek(self.num_bytes)

    @property
    def _has_vectors(self) -> bool:
        return self._vectors.shape[1] > 0

    @property
    def labels(self) -> NDArray[Any]:
        """Labels (n,) int64 or label vectors (n, length) int8 of the samples so far."""
        return (self._vectors if self._has_vectors else self._records["label"])[: self.num_samples]

    @property
    def indices(self) -> NDArray[np.int64]:
        """Positions in the source of the samples so far."""
        return self._records["index"][: self.num_samples]

    def append(
        self, sample: Encoded, label: Any, index: int, more: Sequence[bytes] = (), clip: Sequence[int] = ()
    ) -> None:
        """Write one sample behind the others; `label` is a class or, as (label_length,) int8, a vector.

        more: the bytes of each of the `more_fields`. clip: of sound, its fold and recording.
        """
        number = self.num_samples
        pointer = self._place(0, number, sample.data)
        self._records["index"][number] = index
        if self._is_rgb:
            self._records["image"][number] = (sample.mode, sample.width, sample.height, pointer)
        else:
            self._records[self._main][number] = (pointer, len(sample.data))
            sides = (sample.width, *clip) if self._main == "sound" else (sample.width, sample.height)
            for side, value in zip(self._sides, sides, strict=True):
                self._records[side][number] = value
        for part, (name, content) in enumerate(zip(self._more_fields, more, strict=True), 2):
            self._records[name][number] = (self._place(part, number, content), len(content))
        self.crcs[number] = sample.crc
        if self._has_vectors:
            self._vectors[number] = label
            self.crcs[number] = zlib.crc32(self._vectors[number].tobytes(), sample.crc)
        else:
            self._records["label"][number] = label
        for content in more:
            self.crcs[number] = zlib.crc32(content, int(self.crcs[number]))
        self.num_samples += 1

    def _place(self, part: int, sample: int, data: bytes) -> int:
        """Write a part of a sample, on the next page where the rest of this one is too small; its position."""
        size = len(data)
        assert 0 < size <= MAX_SAMPLE_BYTES
        while size > self.page_size:
            self.page_size *= 2
        left = -self.num_bytes % self.page_size
        if left < size and left:
            self._file.write(bytes(left))
            self.num_bytes += left
        pointer = self.num_bytes
        self._rows[part, sample] = (sample, pointer, size)
        self._file.write(data)
        self.num_bytes += size
        return pointer

    def finish(self) -> tuple[int, int]:
        """Write vectors, table and metadata, then, once they are on the disk, the header; CRC-32 of head and table.

        The head is header, descriptors and metadata, with what was reserved for samples that were rejected.
        """
        if self._has_vectors:
            for number in range(self.num_samples):
                self._records["label"][number] = self._place(1, number, self._vectors[number].tobytes())
        padding = -self.num_bytes % 8
        parts = [rows[: self.num_samples] for rows in self._rows if rows[0]["size"]]
        table = b"".join(rows.tobytes() for rows in parts)
        self._file.write(bytes(padding) + table)
        table_start = self.num_bytes + padding
        self.num_bytes = table_start + len(table)
        self._records[self.num_samples :] = 0
        self._file.seek(HEADER.itemsize)
        self._file.write(self._descriptors)
        self._file.write(self._records.tobytes())
        self._sync()
        header = np.zeros(1, HEADER)
        header[0] = (FORMAT_VERSION, len(self.fields), self.page_size, self.num_samples, table_start)
        self._file.seek(0)
        self._file.write(header.tobytes())
        self._sync()
        found = os.fstat(self._file.fileno()).st_size
        if found != self.num_bytes:
            raise OSError(f"the file has {found:,} bytes after writing {self.num_bytes:,}")
        head_crc = zlib.crc32(self._records.tobytes(), zlib.crc32(self._descriptors, zlib.crc32(header.tobytes())))
        return head_crc, zlib.crc32(table)

    def _sync(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
