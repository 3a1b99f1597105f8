"""Small JPEGs of all kinds, and the ways in which a JPEG is damaged: what drills and tests break photos with."""

from __future__ import annotations

import io
import random
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

DHT, SOF, SOS, DQT, DRI, APP0 = (0xC4,), (0xC0, 0xC2), (0xDA,), (0xDB,), (0xDD,), (0xE0,)
"""Markers of segments: tables, frame, scan, quantization, restarts, remarks."""
END = b"\xff\xd9"
MOST_FLIPS = 3


def picture(seed: int, width: int = 40, height: int = 30) -> NDArray[np.uint8]:
    """Smooth coloured noise: what JPEG keeps nearly as it is."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def encoded(pixels: NDArray[np.uint8], kind: str = "JPEG", **options: object) -> bytes:
    """Pixels as the content of an image file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


NOISE = np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)
PHOTOS = {
    "baseline": encoded(NOISE, quality=90),
    "small": encoded(picture(1, 33, 21), quality=80),
    "progressive": encoded(NOISE, quality=85, progressive=True),
    "restarts": encoded(NOISE, quality=90, restart_marker_blocks=7),
    "4:4:4": encoded(NOISE, quality=90, subsampling="4:4:4"),
    "own tables": encoded(picture(2, 200, 150), quality=95, optimize=True),
    "grey": encoded(NOISE[..., 0], quality=90),
}


def segments(content: bytes) -> list[tuple[int, int, int]]:
    """Marker, first byte and end of each segment up to the first scan's header."""
    found, position = list[tuple[int, int, int]](), 2
    while not found or found[-1][0] not in SOS:
        end = position + 2 + int.from_bytes(content[position + 2 : position + 4], "big")
        found.append((content[position + 1], position, end))
        position = end
    return found


def scan(content: bytes) -> tuple[int, int]:
    """Where the data of the first scan begin, and where those end that a whole photo must have.

    Between two scans of a progressive one nothing is missing but sharpness.
    """
    kinds, start = [marker for marker, _, _ in segments(content)], segments(content)[-1][2]
    return start, content.index(b"\xff", start) if 0xC2 in kinds else len(content) - len(END)


def _flips(content: bytes, start: int, end: int, draw: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(draw.randint(1, MOST_FLIPS)):
        changed[draw.randrange(start, end)] ^= 1 << draw.randrange(8)
    return bytes(changed)


def _in_segment(*markers: int) -> Callable[[bytes, random.Random], bytes]:
    def damaged(content: bytes, draw: random.Random) -> bytes:
        all_of_them = segments(content)
        _, start, end = draw.choice([found for found in all_of_them if found[0] in markers] or all_of_them)
        return _flips(content, start + 2, end, draw)

    return damaged


def _anywhere(content: bytes, draw: random.Random) -> bytes:
    return _flips(content, 2, len(content), draw)


def _cut(content: bytes, draw: random.Random) -> bytes:
    start, end = scan(content)
    return content[: draw.randrange(2, start + int((end - start) * 0.97))]


def _cut_and_closed(content: bytes, draw: random.Random) -> bytes:
    start, end = scan(content)
    return content[: start + int((end - start) * draw.uniform(0, 0.97))] + END


def _part(content: bytes, draw: random.Random) -> tuple[int, int]:
    start, end = sorted((draw.randint(2, len(content)), draw.randint(2, len(content))))
    return start, end


def _cut_out(content: bytes, draw: random.Random) -> bytes:
    start, end = _part(content, draw)
    return content[:start] + content[end:]


def _part_repeated(content: bytes, draw: random.Random) -> bytes:
    start, end = _part(content, draw)
    return content[:end] + content[start:]


def _scan_repeated(content: bytes, draw: random.Random) -> bytes:
    return content[: -len(END)] + draw.randint(1, 3) * content[segments(content)[-1][1] : -len(END)] + END


def _segment_dropped(content: bytes, draw: random.Random) -> bytes:
    _, start, end = draw.choice(segments(content))
    return content[:start] + content[end:]


def _random_bytes(content: bytes, draw: random.Random) -> bytes:
    return draw.choice((b"", content[:3], content[: segments(content)[0][2]])) + draw.randbytes(len(content))


WAYS: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "damaged DHT": _in_segment(*DHT),
    "damaged SOF": _in_segment(*SOF),
    "damaged SOS": _in_segment(*SOS),
    "damaged DQT": _in_segment(*DQT),
    "damaged DRI or remark": _in_segment(*DRI, *APP0),
    "bits anywhere": _anywhere,
    "cut": _cut,
    "cut and closed": _cut_and_closed,
    "cut out": _cut_out,
    "part repeated": _part_repeated,
    "scan repeated": _scan_repeated,
    "segment dropped": _segment_dropped,
    "random bytes": _random_bytes,
}
"""How a whole JPEG is damaged, by a draw of chance."""
HOPELESS = ("cut", "cut and closed", "random bytes")
"""After these no picture is whole."""
