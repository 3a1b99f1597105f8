"""The bytes of a beton: one open file, read in parts or mapped as a whole.

Stands apart from `beton.py`, which knows what the bytes mean. Parts that are read belong to whoever asked for them and
are given back at once, so a process needs no more memory than it decides to; pages of a map count as the process's own
until the kernel takes them back, and a mapped file that shrinks ends the process by a signal instead of an error.
"""

from __future__ import annotations

import itertools
import mmap
import os
import weakref
import zlib
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

REWRITE = "write it again with dataprep/write_ffcv.py"
MAX_GAP_BYTES = 1 << 18
"""Bytes between two ranges that are read along rather than asked for the second range on its own."""
PART_BYTES = 1 << 20
"""Bytes that are held at a time where a file is looked through: what fits a core's cache."""
SMALL_BYTES = 1 << 12
"""Up to here memory from the system, which costs 8 us, is dearer than the reading."""
MAX_RUN_BYTES = 1 << 25
"""Ranges that begin in different stretches of this many bytes are not read in one go."""


Memory = Callable[[int], NDArray[np.uint8]]
"""Gives memory of so many bytes, of undefined content."""


def new_memory(size: int) -> NDArray[np.uint8]:
    """What is not small is the system's, and goes back to it with the last view."""
    if size <= SMALL_BYTES:
        return np.empty(size, np.uint8)
    return np.frombuffer(mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS), np.uint8)


class BetonError(ValueError):
    """A beton or its manifest is damaged, unfinished or not what was asked for."""


class BetonBytes:
    """An open file; it stays the same file when its path is replaced. BetonError when it cannot be opened."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._descriptor = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise BetonError(f"{path}: {error.strerror}") from error
        weakref.finalize(self, os.close, self._descriptor).atexit = False
        self.size = os.fstat(self._descriptor).st_size

    def read(self, start: int, size: int, memory: Memory = new_memory) -> NDArray[np.uint8]:
        """The bytes from `start` on; BetonError: see `read_into`."""
        content = memory(size)
        self.read_into(content, start)
        return content

    def read_into(self, out: NDArray[np.uint8], start: int) -> None:
        """Fill `out` with the bytes from `start` on; BetonError when they cannot be read, or are gone."""
        view, done = out.data, 0
        while done < out.size:
            try:
                got = os.preadv(self._descriptor, [view[done:]], start + done)
            except OSError as error:
                raise BetonError(f"{self.path}: byte {start + done:,} cannot be read ({error.strerror})") from error
            if got == 0:
                length = os.fstat(self._descriptor).st_size
                what = f"cut off while it was open, from {self.size:,} bytes to {length:,}"
                raise BetonError(f"{self.path}: {what}; copy or {REWRITE}, and do not change it while it is used")
            done += got

    def parts(self, start: int, end: int) -> Iterator[NDArray[np.uint8]]:
        """The bytes from `start` to `end`, some at a time; each part is good until the next is asked for."""
        buffer = np.empty(min(max(end - start, 0), PART_BYTES), np.uint8)
        for first in range(start, end, PART_BYTES):
            part = buffer[: end - first]
            self.read_into(part, first)
            yield part

    def crc32(self, start: int, end: int) -> int:
        """CRC-32 of the bytes from `start` to `end`."""
        crc = 0
        for part in self.parts(start, end):
            crc = zlib.crc32(part.data, crc)
        return crc

    @cached_property
    def mapped(self) -> NDArray[np.uint8]:
        """The whole file, mapped when this is first asked for; BetonError when there is no room for that."""
        try:
            content = mmap.mmap(self._descriptor, self.size, prot=mmap.PROT_READ)
        except OSError as error:
            what = f"its {self.size:,} bytes cannot be mapped ({error.strerror})"
            raise BetonError(f"{self.path}: {what}; see `ulimit -v`") from error
        return np.frombuffer(content, np.uint8)


def runs(starts: NDArray[np.integer], sizes: NDArray[np.integer]) -> list[slice]:
    """Which of the ranges, ascending by their start, are best read in one go, as slices of them.

    >>> runs(np.array([0, 100, 1 << 20]), np.array([100, 50, 10]))
    [slice(0, 2, None), slice(2, 3, None)]
    """
    starts, ends = starts.astype(np.int64), (starts + sizes).astype(np.int64)
    apart = starts[1:] - ends[:-1] > MAX_GAP_BYTES
    apart |= starts[1:] // MAX_RUN_BYTES != starts[:-1] // MAX_RUN_BYTES
    cuts = [0, *(np.flatnonzero(apart) + 1).tolist(), len(starts)]
    return [slice(begin, end) for begin, end in itertools.pairwise(cuts) if begin < end]
