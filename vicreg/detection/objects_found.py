"""Objects in many images, found or true: as arrays, whoever asks for them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dataprep.beton.contract import Beton
from dataprep.beton.objects import CROWD, DIFFICULT, MASKS, OBJECTS, decode_masks, decode_objects


@dataclass(frozen=True)
class Detections:
    """Objects that were found, or that there are, in many images; sorted by image."""

    samples: NDArray[np.int64]
    """(N,) place of the image in the beton."""
    boxes: NDArray[np.float64]
    """(N, 4): left, top, right, bottom in pixels of the stored image."""
    classes: NDArray[np.int64]
    """(N,) from 0."""
    scores: NDArray[np.float64]
    """(N,) from 0 to 1; ones for the truth."""
    masks: list[bytes] | None = None
    """In COCO's compressed run-length form."""
    flags: NDArray[np.uint8] | None = None
    """(N,) of the truth: DIFFICULT, CROWD or neither."""
    areas: NDArray[np.float64] | None = None
    """(N,) of the truth, in pixels."""

    def of(self, chosen: NDArray[np.bool_]) -> Detections:
        """Some of them."""
        masks = [self.masks[number] for number in np.flatnonzero(chosen)] if self.masks is not None else None
        flags = self.flags[chosen] if self.flags is not None else None
        areas = self.areas[chosen] if self.areas is not None else None
        columns = self.samples[chosen], self.boxes[chosen], self.classes[chosen], self.scores[chosen]
        return Detections(*columns, masks, flags, areas)


def truth(beton: Beton, with_masks: bool) -> Detections:
    """The objects of all images of a beton, with difficult ones and crowds."""
    objects = [decode_objects(beton.field_bytes(OBJECTS, sample)) for sample in range(beton.num_samples)]
    joined = np.concatenate(objects)
    masks = None
    if with_masks:
        fields = (beton.field_bytes(MASKS, sample) for sample in range(beton.num_samples))
        masks = [mask for field in fields for mask in decode_masks(field)]
    samples = np.repeat(np.arange(beton.num_samples), [len(one) for one in objects])
    classes, ones = joined["class"].astype(np.int64), np.ones(len(joined))
    assert not set(np.unique(joined["flags"]).tolist()) - {0, DIFFICULT, CROWD}
    return Detections(samples, joined["box"], classes, ones, masks, joined["flags"], joined["area"])
