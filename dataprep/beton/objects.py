"""The objects of an image as a beton holds them: boxes, classes and flags in one field, masks in another.

Both are FFCV's BytesField. `objects` is a count and so many records; `masks` is a count, so many lengths, and as many
masks in COCO's compressed run-length form, each of the whole image. A count stands first so that no field of a sample
is ever empty.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

OBJECTS, MASKS = "objects", "masks"
"""Names of the fields, in the order in which they lie behind an image."""
OBJECT = np.dtype([("box", "<f8", (4,)), ("area", "<f8"), ("class", "<i4"), ("flags", "u1")])
"""box: left, top, right, bottom in pixels of the image, whose first pixel reaches from 0 to 1; area: in pixels, of the
mask where there is one; class: number among the beton's classes; flags: DIFFICULT, CROWD or neither."""
DIFFICULT, CROWD = 1, 2
"""Marked as hard to recognise (VOC); a group of which single objects were not drawn (COCO)."""
_COUNT = np.dtype("<u4")
_MORE, _SIGN, _DIGIT = 0x20, 0x10, 0x1F  # of a character of a run-length text, less 48


class BadObjects(ValueError):
    """The bytes of a field are not what `encode_objects` or `encode_masks` writes."""


def encode_objects(objects: NDArray[np.void]) -> bytes:
    """Objects (N,) of dtype OBJECT as the bytes of a field."""
    return np.array(len(objects), _COUNT).tobytes() + objects.astype(OBJECT, copy=False).tobytes()


def decode_objects(stored: NDArray[np.uint8]) -> NDArray[np.void]:
    """The way back from `encode_objects`; BadObjects where the bytes are none."""
    count, rest = _counted(stored)
    if len(rest) != count * OBJECT.itemsize:
        raise BadObjects(f"{len(rest):,} bytes for {count:,} objects of {OBJECT.itemsize}")
    return np.frombuffer(rest.tobytes(), OBJECT)


def encode_masks(masks: Sequence[bytes]) -> bytes:
    """Masks in compressed run-length form as the bytes of a field."""
    lengths = np.array([len(masks), *map(len, masks)], _COUNT)
    return lengths.tobytes() + b"".join(masks)


def decode_masks(stored: NDArray[np.uint8]) -> list[bytes]:
    """The way back from `encode_masks`; BadObjects where the bytes are none."""
    count, rest = _counted(stored)
    head = count * _COUNT.itemsize
    if len(rest) < head:
        raise BadObjects(f"{len(rest):,} bytes for {count:,} masks")
    ends = np.cumsum(np.frombuffer(rest[:head].tobytes(), _COUNT).astype(np.int64))
    content = rest[head:].tobytes()
    if len(content) != (int(ends[-1]) if count else 0):
        raise BadObjects(f"{len(content):,} bytes of masks, their lengths say {int(ends[-1]) if count else 0:,}")
    starts = [0, *ends[:-1].tolist()]
    return [content[start:end] for start, end in zip(starts, ends.tolist(), strict=False)]


def _counted(stored: NDArray[np.uint8]) -> tuple[int, NDArray[np.uint8]]:
    if len(stored) < _COUNT.itemsize:
        raise BadObjects(f"{len(stored)} bytes, and no count")
    return int(stored[: _COUNT.itemsize].view(_COUNT)[0]), stored[_COUNT.itemsize :]


def run_lengths(mask: bytes) -> NDArray[np.int64]:
    """Lengths of the runs of zeros and ones, in turn, down one column after the other; BadObjects for no such text.

    A text has numbers of 5 bits a character, the least first; from the fourth number on they are differences to the
    last but one (COCO's maskApi.c, rleFrString).
    """
    digits = np.frombuffer(mask, np.uint8).astype(np.int64) - 48
    if not len(digits):
        return digits
    last = (digits & _MORE) == 0
    if digits.min() < 0 or digits.max() > 63 or not last[-1]:
        raise BadObjects("a mask is no run-length text")
    ends = np.flatnonzero(last)
    starts = np.concatenate([[0], ends[:-1] + 1])
    if int((ends - starts).max()) > 11:
        raise BadObjects("a mask has a run of more than 60 bits")
    shifts = 5 * (np.arange(len(digits)) - np.repeat(starts, ends - starts + 1))
    numbers = np.add.reduceat((digits & _DIGIT) << shifts, starts)
    negative = (digits[ends] & _SIGN) != 0
    numbers -= np.where(negative, np.int64(1) << (shifts[ends] + 5), 0)
    numbers[1::2] = np.cumsum(numbers[1::2])
    numbers[2::2] = np.cumsum(numbers[2::2])
    return numbers


def decode_mask(mask: bytes, height: int, width: int) -> NDArray[np.uint8]:
    """A mask as (height, width) of zeros and ones; BadObjects where it is that of another size."""
    runs = run_lengths(mask)
    if (len(runs) and int(runs.min()) < 0) or int(runs.sum()) != height * width:
        raise BadObjects(f"a mask of {int(runs.sum()):,} pixels, the image has {height} x {width}")
    values = (np.arange(len(runs)) % 2).astype(np.uint8)
    return np.repeat(values, runs).reshape(width, height).T


def fault(one: np.void, mask: bytes | None, size: tuple[int, int], num_classes: int) -> str:
    """What is wrong with an object of an image of `size` (height, width); empty if nothing is.

    A box may reach out of the image, by whatever rounding or hand drew it, but must have a part in it.
    """
    height, width = size
    left, top, right, bottom = one["box"].tolist()
    said = f"box {left:g}, {top:g}, {right:g}, {bottom:g}"
    if not all(math.isfinite(value) for value in (left, top, right, bottom, float(one["area"]))):
        return f"{said} or area {one['area']:g} is no number"
    if not (left < right and top < bottom):
        return f"{said} has no area"
    if not (right > 0 and bottom > 0 and left < width and top < height):
        return f"{said} is outside the image of {width} x {height}"
    if not 0 <= one["class"] < num_classes:
        return f"class {one['class']} is none of {num_classes}"
    try:
        if mask is not None:
            decode_mask(mask, height, width)
    except BadObjects as error:
        return str(error)
    return ""


def num_outside(objects: NDArray[np.void], size: tuple[int, int]) -> int:
    """How many boxes reach out of an image of `size` (height, width)."""
    height, width = size
    low, high = objects["box"][:, :2] < 0, objects["box"][:, 2:] > (width, height)
    return int((low | high).any(axis=1).sum())


def presence(objects: NDArray[np.void], num_classes: int) -> NDArray[np.int8]:
    """The label vector (num_classes,) of an image: 1 where a class is present, 0 in difficult objects only, else -1.

    Crowds count as absent: nothing is learned from them.
    """
    label = np.full(num_classes, -1, np.int8)
    label[objects["class"][objects["flags"] == DIFFICULT]] = 0
    label[objects["class"][objects["flags"] == 0]] = 1
    return label
