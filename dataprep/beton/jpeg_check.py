"""Is this JPEG whole, and what does its header state? Asked without a full decode, in two steps.

Its markers are walked first (some 40 microseconds for an ImageNet photo): a file that is cut off, filled with zeros or
overwritten with other data shows there. A file that raises doubt, or is small, is then parsed to its last Huffman code
at an eighth of its size, by libjpeg-turbo, the library that FFCV decodes with; unlike Pillow it tells of data that ends
early behind a valid end marker and of impossible codes. That costs three quarters of a full decode, so it is done for
every file only on request (`--check decode`). Where libturbojpeg is missing, Pillow parses instead: it sees files that
are cut off, not the rest.
"""

from __future__ import annotations

import ctypes
import functools
import io
import re
import struct
from dataclasses import dataclass

from PIL import Image

_SOF_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_SOF_HUFFMAN = frozenset({0xC0, 0xC1, 0xC2})  # baseline, extended, progressive: what every decoder knows
_BARE_MARKERS = frozenset({0x01, *range(0xD0, 0xD9)})
_SOS, _EOI = 0xDA, 0xD9
_MARKER = re.compile(rb"\xff[^\x00]", re.DOTALL)
_ZEROS = bytes(64)  # no camera's Huffman codes give that; a hole in a file does
_TJPF_GRAY, _TJPF_CMYK = 6, 11
_TJFLAG_LIMITSCANS = 32768


class BadImage(ValueError):
    """An image that cannot be stored; the message is the reason, without the file's name."""


@dataclass(frozen=True)
class JpegHeader:
    """What a JPEG's frame header states."""

    width: int
    height: int
    precision_bits: int
    num_components: int
    huffman: bool
    """Baseline, extended or progressive with Huffman coding: what every decoder can read."""


def is_jpeg(content: bytes) -> bool:
    """By content: does it start as a JPEG does?"""
    return content[:3] == b"\xff\xd8\xff"


def read_jpeg_header(content: bytes) -> JpegHeader:
    """Walk the markers to the frame header; BadImage when there is none."""
    position = 2
    while position + 4 <= len(content):
        if content[position] != 0xFF:  # junk between segments, as libjpeg does: skip to the next marker
            position = content.find(b"\xff", position)
            if position < 0:
                break
            continue
        marker = content[position + 1]
        if marker in (0xFF, 0x00) or marker in _BARE_MARKERS:
            position += 1 if marker == 0xFF else 2
            continue
        if marker in (_SOS, _EOI):
            break
        if marker in _SOF_MARKERS and position + 10 <= len(content):
            bits, height, width, components = struct.unpack_from(">BHHB", content, position + 4)
            return JpegHeader(width, height, bits, components, marker in _SOF_HUFFMAN)
        position += 2 + int.from_bytes(content[position + 2 : position + 4], "big")
    raise BadImage("JPEG without a frame header (truncated or damaged)")


def markers_are_sound(content: bytes) -> bool:
    """Do the segments and scans of a JPEG follow each other up to its end marker? False means: parse it to be sure."""
    position = 2
    while position + 4 <= len(content) and content[position] == 0xFF:
        marker = content[position + 1]
        if marker == 0xFF or marker < 0xC0 or marker in _BARE_MARKERS:
            return False
        position += 2 + int.from_bytes(content[position + 2 : position + 4], "big")
        if marker == _SOS:
            found = _end_of_scan(content, position)
            if found < 0:
                return False
            if content[found + 1] == _EOI:
                return content.find(_ZEROS, position, found) < 0
            position = found
    return False


def _end_of_scan(content: bytes, position: int) -> int:
    """Where the first marker after a scan's data lies, restart markers in order left aside; -1 when there is none."""
    restart = 0xD0
    for match in _MARKER.finditer(content, position):
        marker = content[match.start() + 1]
        if marker != restart:
            return match.start()
        restart = 0xD0 + (restart - 0xCF) % 8
    return -1


def decodes_cleanly(content: bytes, header: JpegHeader) -> bool:
    """Parse a JPEG to its last Huffman code; BadImage when image data is missing or impossible.

    False for a JPEG that decodes whole while a strict decoder complains (such as of stray bytes before a marker).
    """
    if _turbojpeg() is None:
        return _check_with_pillow(content)
    complaint = _turbojpeg_complaint(content, header)
    lowered = complaint.lower()
    if "premature end" in lowered:
        raise BadImage(f"truncated JPEG ({complaint})")
    lost_sync = "extraneous bytes" in lowered and _ZEROS in content
    if lost_sync or "huffman" in lowered or "instead of rst" in lowered or "scans" in lowered:
        raise BadImage(f"corrupt JPEG ({complaint})")
    return not complaint


def checker_name() -> str:
    """Which library checks: part of the manifest, since it decides what is rejected."""
    return "Pillow" if _turbojpeg() is None else "libturbojpeg"


@functools.cache
def _turbojpeg() -> ctypes.CDLL | None:
    """The library by the name under which FFCV was linked to it, if this machine has it."""
    for name in ("libturbojpeg.so.0", "libturbojpeg.so", "libturbojpeg.dylib"):
        try:
            library = ctypes.CDLL(name)
        except OSError:
            continue
        library.tjInitDecompress.restype = ctypes.c_void_p
        library.tjGetErrorStr2.restype = ctypes.c_char_p
        library.tjGetErrorStr2.argtypes = [ctypes.c_void_p]
        library.tjDecompress2.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_void_p]
        library.tjDecompress2.argtypes += [ctypes.c_int] * 5
        return library
    return None


@functools.cache
def _decompressor() -> ctypes.c_void_p:
    """One decompressor for the life of this process (each process has one thread)."""
    library = _turbojpeg()
    assert library is not None
    return ctypes.c_void_p(library.tjInitDecompress())


def _turbojpeg_complaint(content: bytes, header: JpegHeader) -> str:
    """What libturbojpeg says against a JPEG, its first warning or its error; empty when nothing."""
    library = _turbojpeg()
    assert library is not None
    width, height = -(-header.width // 8), -(-header.height // 8)
    pixel_format, channels = (_TJPF_CMYK, 4) if header.num_components == 4 else (_TJPF_GRAY, 1)
    pixels = ctypes.create_string_buffer(width * height * channels)
    decompressor, flags = _decompressor(), _TJFLAG_LIMITSCANS
    size = len(content)
    if library.tjDecompress2(decompressor, content, size, pixels, width, 0, height, pixel_format, flags) == 0:
        return ""
    message: bytes = library.tjGetErrorStr2(decompressor)
    return message.decode("ascii", "replace")


def _check_with_pillow(content: bytes) -> bool:
    """The weaker check: Pillow ignores libjpeg's warnings, and raises when the file ends before the image does."""
    try:
        with Image.open(io.BytesIO(content), formats=["JPEG"]) as image:
            image.draft(image.mode, (image.width // 8, image.height // 8))
            image.load()
    except OSError as error:
        raise BadImage(f"truncated JPEG ({error})") from error
    return True
