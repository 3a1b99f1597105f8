"""One sample: read from where it lies, checked, encoded; or a named rejection. What travels to the workers and back."""

from __future__ import annotations

import errno
import functools
import os
import stat
import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dataprep.beton.jpeg_check import BadImage
from dataprep.writing.channel_images import store_channels
from dataprep.writing.images import ImageOptions, store_image
from dataprep.writing.sound_clips import store_clip


@dataclass(frozen=True)
class FilePart:
    """Where a sample's file lies: `size` bytes from `offset` in `path` (a tar), or the whole file when `size` is -1."""

    path: str
    offset: int = 0
    size: int = -1
    listed_below: str = ""
    """Folder below which a list names this file, which may therefore never have been there."""


_BYTES_PER_PIXEL = 32  # of the most lavish format, 16 channels of 16 bits
_MIN_BYTES = 1 << 20  # for what a small picture's file may hold besides

Content = FilePart | NDArray[np.uint8] | bytes


@dataclass(frozen=True)
class Encoded:
    """A sample ready to be written."""

    mode: int
    width: int
    height: int
    crc: int
    kept: bool
    data: bytes
    flaw: str = ""
    """What was wrong with the source, although it decoded."""


@dataclass(frozen=True)
class Rejected:
    """A sample that cannot be used, and why."""

    reason: str


@dataclass(frozen=True)
class SourceUnreadable:
    """The disk or the network failed, not the image: the write must stop."""

    path: str
    error: str


Result = Encoded | Rejected | SourceUnreadable
Chunk = list[tuple[Content, bool]]
"""Samples with the choice that write mode `proportion` made for them (store as JPEG?)."""


def encode_chunk(chunk: Chunk, options: ImageOptions) -> list[Result]:
    """Encode the samples of a chunk, in order."""
    return [_encode_sample(content, as_jpeg, options) for content, as_jpeg in chunk]


def _encode_sample(content: Content, as_jpeg: bool, options: ImageOptions) -> Result:
    """Read, check and encode one sample."""
    try:
        pixels_or_file = read_content(content, options.max_pixels)
    except OSError as error:
        assert isinstance(content, FilePart)
        return _without_content(content, error)
    except BadImage as error:
        return Rejected(str(error))
    try:
        if options.pixels.is_sound:
            assert isinstance(pixels_or_file, bytes)
            stored = store_clip(pixels_or_file, options)
        elif options.pixels.is_rgb:
            stored = store_image(pixels_or_file, options, as_jpeg=as_jpeg)
        else:
            stored = store_channels(pixels_or_file, options)
    except BadImage as error:
        return Rejected(str(error))
    crc = zlib.crc32(stored.data)
    return Encoded(stored.mode, stored.width, stored.height, crc, stored.kept, stored.data, stored.flaw)


def _without_content(part: FilePart, error: OSError) -> Result:
    """Is it this sample's fault that its file cannot be read, or the disk's?"""
    if error.errno in (errno.ENOENT, errno.ELOOP):
        if os.path.islink(part.path):
            return Rejected("link to a missing file" if error.errno == errno.ENOENT else "link to itself")
        if os.path.isdir(part.listed_below):  # else all of them have gone: a disk that is no longer there
            return Rejected("listed, but there is no such file")
    return SourceUnreadable(part.path, str(error))


def read_content(content: Content, max_pixels: int) -> bytes | NDArray[np.uint8]:
    """What is to be encoded; OSError where it cannot be read, BadImage for what no image can be."""
    return _read(content, max_pixels) if isinstance(content, FilePart) else content


def _read(part: FilePart, max_pixels: int) -> bytes:
    """The bytes of a file or of a tar's member; BadImage for what no image can be, before memory is taken for it."""
    if part.size < 0:
        with open(os.open(part.path, os.O_RDONLY | os.O_NONBLOCK), "rb", buffering=0) as file:  # a pipe must not block
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise BadImage("no regular file")
            _check_bytes(found.st_size, max_pixels)
            return file.read()
    _check_bytes(part.size, max_pixels)
    content = os.pread(_archive(part.path), part.size, part.offset)
    if len(content) < part.size:
        raise OSError(f"ends at byte {part.offset + len(content):,}, needed {part.offset + part.size:,}: cut off?")
    return content


def _check_bytes(num_bytes: int, max_pixels: int) -> None:
    """Refuse files that would fill the memory."""
    most = max(max_pixels * _BYTES_PER_PIXEL, _MIN_BYTES)
    if num_bytes > most:
        raise BadImage(f"file of {num_bytes:,} bytes, allowed: {most:,} ({_BYTES_PER_PIXEL} for each of --max-pixels)")


@functools.lru_cache(maxsize=1)
def _archive(path: str) -> int:
    """File descriptor of the tar that is being read; it stays open until the process ends."""
    return os.open(path, os.O_RDONLY)
