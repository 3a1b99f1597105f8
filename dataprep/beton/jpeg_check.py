"""Is this JPEG whole, and what does its header state? Every code of it is read, as training's decoder reads it.

A photo that was cut and closed with an end marker, or whose tables were damaged, looks sound from outside: only its
Huffman codes tell. So libjpeg-turbo, which training decodes with, reads all of them, at an eighth of the size, where
nearly nothing is left to do for the pixels: 0.8 ms for an ImageNet photo, two thirds of a full decode. Unlike Pillow
it tells of data that end early and of impossible codes. Where nothing of it is found, Pillow checks: it sees files
that are cut off, not the rest. A flipped bit that leaves possible codes is nobody's to see.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

from dataprep.beton.jpeg_decoder import UNUSUAL_SAMPLING, WheelJpeg, jpeg_decoder
from dataprep.beton.turbojpeg import CHANNELS, CMYK, GRAY, SUBSAMPLING_UNKNOWN, Complaint

_SOF_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_SOF_SEQUENTIAL = frozenset({0xC0, 0xC1})
_SOF_HUFFMAN = _SOF_SEQUENTIAL | {0xC2}  # and progressive: what every decoder knows
_BARE_MARKERS = frozenset({0x01, *range(0xD0, 0xD9)})
_SOI, _SOS, _EOI = b"\xff\xd8", 0xDA, 0xD9
_REMARKS = frozenset({*range(0xE0, 0xF0), 0xFE})  # APP0 to APP15, COM: no part of the picture
_WHOLE_BLOCK = bytes((0, 63, 0))  # what a scan of a sequential JPEG must state of its coefficients
_ZEROS = bytes(64)  # no camera's Huffman codes give that; a hole in a file does


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
    for marker, start, _ in _segments(content):
        if marker in _SOF_MARKERS and start + 10 <= len(content):
            bits, height, width, components = struct.unpack_from(">BHHB", content, start + 4)
            return JpegHeader(width, height, bits, components, marker in _SOF_HUFFMAN)
    raise BadImage("JPEG without a frame header (truncated or damaged)")


def flaw_of(content: bytes, header: JpegHeader) -> str:
    """What a strict decoder has against a JPEG that Pillow may still decode; empty for one that may be kept as it is.

    BadImage when data are missing or impossible. A flaw is what is wrong outside the picture: in remarks before it, or
    stray bytes behind it; or a kind of JPEG that not every decoder knows.
    """
    if jpeg_decoder() is None:
        return _check_with_pillow(content)
    complaint = _parse(content, header)
    if complaint is None:
        return _strange_kind(content, header)
    if complaint.reason == UNUSUAL_SAMPLING:
        return _check_with_pillow(content) or complaint.reason
    if complaint.fatal and not header.huffman:
        return complaint.reason
    bare = _without_remarks(content)
    # Only the first warning is told, so what comes after the remarks is asked for again without them.
    # simplejpeg takes a warning before the picture for an error, so it is asked again after that, too.
    ends = complaint.fatal and jpeg_decoder() is not WheelJpeg
    last = complaint if ends or _is_behind(complaint) else _parse(bare, header)
    if last and not (_is_behind(last) and _ZEROS not in bare):
        kind = "truncated" if "premature end" in last.reason.lower() else "corrupt"
        raise BadImage(f"{kind} JPEG ({last.reason})")
    return complaint.reason


def checker_name() -> str:
    """Which library checks: part of the manifest, since it decides what is rejected."""
    return "Pillow" if jpeg_decoder() is None else "libturbojpeg"


def _segments(content: bytes) -> Iterator[tuple[int, int, int]]:
    """The segments before the picture's data, the first scan's header the last: marker, first byte, end."""
    position = 2
    while position + 4 <= len(content):
        if content[position] != 0xFF:  # junk between segments, as libjpeg does: skip to the next marker
            position = content.find(b"\xff", position)
            if position < 0:
                return
            continue
        marker = content[position + 1]
        if marker in (0xFF, 0x00) or marker in _BARE_MARKERS:
            position += 1 if marker == 0xFF else 2
            continue
        end = position + 2 + int.from_bytes(content[position + 2 : position + 4], "big")
        if marker == _EOI:
            return
        yield marker, position, end
        if marker == _SOS:
            return
        position = end


def _without_remarks(content: bytes) -> bytes:
    """The same picture without what stands around it in its header: remarks, junk, odd statements of a scan's range."""
    parts, sequential, end = [_SOI], False, len(content)
    for marker, start, end in _segments(content):
        sequential = sequential or marker in _SOF_SEQUENTIAL
        if marker == _SOS and sequential:
            parts += [content[start : end - len(_WHOLE_BLOCK)], _WHOLE_BLOCK]
        elif marker not in _REMARKS:
            parts.append(content[start:end])
    return b"".join([*parts, content[end:]])


def _is_behind(complaint: Complaint) -> bool:
    """Is it of bytes between the picture and the end marker, and so the last that there can be?"""
    return not complaint.fatal and complaint.reason.endswith("extraneous bytes before marker 0xd9")


def _parse(content: bytes, header: JpegHeader) -> Complaint | None:
    """Read all codes of a JPEG; what the decoder says against it."""
    decoder = jpeg_decoder()
    assert decoder is not None
    pixel_format = CMYK if header.num_components == 4 else GRAY
    pixels = np.empty((-(-header.height // 8), -(-header.width // 8), CHANNELS[pixel_format]), np.uint8)
    return decoder(content).pixels(pixels, pixel_format)


def _strange_kind(content: bytes, header: JpegHeader) -> str:
    """What training's decoder could not make of the header of a JPEG; BadImage when it reads another size there."""
    decoder = jpeg_decoder()
    assert decoder is not None
    found, complaint = decoder(content).header()
    if complaint:
        return complaint.reason
    if (found.width, found.height) != (header.width, header.height):
        raise BadImage(f"corrupt JPEG (states {header.width} x {header.height} and {found.width} x {found.height})")
    return UNUSUAL_SAMPLING if found.subsampling == SUBSAMPLING_UNKNOWN else ""


def _check_with_pillow(content: bytes) -> str:
    """The weaker check: Pillow ignores libjpeg's warnings, and raises when the file ends before the image does."""
    try:
        with Image.open(io.BytesIO(content), formats=["JPEG"]) as image:
            image.draft(image.mode, (max(1, image.width // 8), max(1, image.height // 8)))
            image.load()
    except OSError as error:
        raise BadImage(f"truncated JPEG ({error})") from error
    return ""
