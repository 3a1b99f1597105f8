"""The objects of a raw image, and what of them goes into a beton once the image's size is known.

Stands apart from `beton/objects.py`, which knows the stored form: here is what an annotation may be wrong in.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dataprep.beton.objects import encode_masks, encode_objects, fault, num_outside, presence
from dataprep.beton.segments import encode_segments, shown, unknown_class


@dataclass(frozen=True)
class RawObjects:
    """What an annotation says of an image."""

    height: int
    """Of the image, in pixels, as the annotation states it."""
    width: int
    objects: NDArray[np.void]
    """(N,) of dtype `OBJECT`."""
    masks: tuple[bytes, ...] | None = None
    """In compressed run-length form, one for each object; None where there are none."""
    left_out: tuple[str, ...] = ()
    """What of the annotation is no object, and why."""


@dataclass(frozen=True)
class StoredObjects:
    """What of an image's objects, or of its pixels' classes, is stored."""

    fields: tuple[bytes, ...]
    """The bytes of `objects` and, where there are masks, of `masks`; or those of `segments`, or of `captions`."""
    label: NDArray[np.int8] | None
    """Which classes the image shows; None: what the source says."""
    num_objects: int = 0
    num_outside: int = 0
    """Boxes that reach out of the image; training cuts them off."""
    left_out: tuple[str, ...] = ()
    captions: tuple[str, ...] = ()


def usable(raw: RawObjects, num_classes: int) -> RawObjects:
    """The objects without those that are wrong in themselves, or with the stated size."""
    masks = raw.masks or (None,) * len(raw.objects)
    size = raw.height, raw.width
    said = [fault(one, mask, size, num_classes) for one, mask in zip(raw.objects, masks, strict=True)]
    kept = [number for number, why in enumerate(said) if not why]
    chosen = tuple(raw.masks[number] for number in kept) if raw.masks is not None else None
    left_out = (*raw.left_out, *(why for why in said if why))
    return RawObjects(raw.height, raw.width, raw.objects[kept], chosen, left_out)


def store_segments(classes: NDArray[np.uint8] | str, height: int, width: int, num_classes: int) -> StoredObjects | str:
    """What is stored of the classes of an image's pixels; why it cannot be."""
    if isinstance(classes, str):
        return classes
    if classes.shape != (height, width):
        return (
            f"its classes are those of {classes.shape[1]} x {classes.shape[0]} pixels, the image has {width} x {height}"
        )
    return unknown_class(classes, num_classes) or StoredObjects(
        (encode_segments(classes),), shown(classes, num_classes)
    )


def store_objects(raw: RawObjects, height: int, width: int, num_classes: int) -> StoredObjects | str:
    """What is stored of an image of this height and width; why it cannot be where the annotation states another."""
    if (raw.height, raw.width) != (height, width):
        return f"its objects are those of {raw.width} x {raw.height} pixels, the image has {width} x {height}"
    kept = usable(raw, num_classes)
    fields = [encode_objects(kept.objects)] + ([encode_masks(kept.masks)] if kept.masks is not None else [])
    label = presence(kept.objects, num_classes)
    outside = num_outside(kept.objects, (height, width))
    return StoredObjects(tuple(fields), label, len(kept.objects), outside, kept.left_out)
