"""The layout of a beton while it is being written: samples go to pages one after the other, the header goes last.

FFCV reads pages (its process cache) and needs every sample to lie inside one. The page size grows with the largest
sample: pages of twice the size are unions of the smaller ones, so what was written before stays inside a page.
"""

from __future__ import annotations

import os
import zlib
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from dataprep.beton import (
    ALLOCATION,
    DESCRIPTOR,
    FORMAT_VERSION,
    HEADER,
    IMAGE_METADATA,
    MIN_PAGE_SIZE,
    TYPE_IMAGE,
    TYPE_INT,
)
from dataprep.sample_encoding import Encoded

FIELDS = {"image": "RGBImageField", "label": "IntField", "index": "IntField"}
MAX_SAMPLE_BYTES = 1 << 31  # a page must be under 4 GiB
_RECORD = np.dtype([("image", IMAGE_METADATA), ("label", "<i8"), ("index", "<i8")], align=True)


class BetonFile:
    """A beton of up to `num_reserved` samples on an open file; unreadable to everyone until `finish`."""

    def __init__(self, file: BinaryIO, num_reserved: int) -> None:
        self._file = file
        self._records = np.zeros(num_reserved, _RECORD)
        self._table = np.zeros(num_reserved, ALLOCATION)
        self.crcs = np.zeros(num_reserved, np.uint32)
        self.num_samples = 0
        self.page_size = MIN_PAGE_SIZE
        descriptors = np.zeros(len(FIELDS), DESCRIPTOR)
        descriptors["name"] = [name.encode() for name in FIELDS]
        descriptors["type_id"] = [TYPE_IMAGE if kind == "RGBImageField" else TYPE_INT for kind in FIELDS.values()]
        self._descriptors = descriptors.tobytes()
        self.head_bytes = HEADER.itemsize + len(self._descriptors) + self._records.nbytes
        self.num_bytes = self.head_bytes + -self.head_bytes % MIN_PAGE_SIZE
        file.seek(self.num_bytes)

    @property
    def labels(self) -> NDArray[np.int64]:
        """Labels of the samples so far."""
        return self._records["label"][: self.num_samples]

    @property
    def indices(self) -> NDArray[np.int64]:
        """Positions in the source of the samples so far."""
        return self._records["index"][: self.num_samples]

    def append(self, sample: Encoded, label: int, index: int) -> None:
        """Write one sample behind the others, on the next page where the rest of this one is too small."""
        size, number = len(sample.data), self.num_samples
        assert 0 < size <= MAX_SAMPLE_BYTES
        while size > self.page_size:
            self.page_size *= 2
        left = -self.num_bytes % self.page_size
        if left < size and left:
            self._file.write(bytes(left))
            self.num_bytes += left
        self._records[number] = ((sample.mode, sample.width, sample.height, self.num_bytes), label, index)
        self._table[number] = (number, self.num_bytes, size)
        self.crcs[number] = sample.crc
        self._file.write(sample.data)
        self.num_bytes += size
        self.num_samples += 1

    def finish(self) -> tuple[int, int]:
        """Write table and metadata, then, once they are on the disk, the header; returns the CRC-32 of head and table.

        The head is header, descriptors and metadata, with what was reserved for samples that were rejected.
        """
        padding = -self.num_bytes % 8
        table = self._table[: self.num_samples].tobytes()
        self._file.write(bytes(padding) + table)
        table_start = self.num_bytes + padding
        self.num_bytes = table_start + len(table)
        self._records[self.num_samples :] = 0
        self._file.seek(HEADER.itemsize)
        self._file.write(self._descriptors)
        self._file.write(self._records.tobytes())
        self._sync()
        header = np.zeros(1, HEADER)
        header[0] = (FORMAT_VERSION, len(FIELDS), self.page_size, self.num_samples, table_start)
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
