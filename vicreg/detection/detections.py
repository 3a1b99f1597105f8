"""What a detector finds in images: on every rank its share, each image once, then gathered on all of them.

Images pass through the detector one at a time, so what is found does not depend on ranks or batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dataprep.beton.contract import Beton
from dataprep.beton.objects import CROWD, DIFFICULT, MASKS, OBJECTS, decode_masks, decode_objects
from vicreg.detection.detector import Detector
from vicreg.detection.regions import paste_masks
from vicreg.detection.scenes import Scenes, as_input
from vicreg.ranks import distributed

NUM_COLUMNS = 8


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


@torch.no_grad()
def detect(
    detector: Detector,
    scenes: Iterator[Scenes],
    beton: Beton,
    device: torch.device,
    normalise: Callable[[Tensor], Tensor],
    heard: Callable[[], None],
) -> Detections:
    """What the detector finds in these images, in eval mode, in pixels of the stored images."""
    detector.eval()
    rows, masks = [np.empty((0, NUM_COLUMNS))], []
    with_masks = detector.regions.has_mask()
    for scene in scenes:
        sample, size = int(scene.samples[0]), scene.sizes[0]
        stored = int(beton.heights[sample]), int(beton.widths[sample])
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            (found,) = detector(as_input(scene.to(device), normalise), [size])
        scale = torch.tensor([stored[1] / size[1], stored[0] / size[0]] * 2, device=device)
        boxes = found["boxes"].float() * scale
        texts = pack(paste_masks(found["masks"], boxes, *stored)) if with_masks else [b""] * len(boxes)
        columns = [found["scores"].cpu().numpy(), found["labels"].cpu().numpy() - 1, [len(text) for text in texts]]
        first = np.full((len(boxes), 1), sample)
        rows.append(np.hstack([first, boxes.cpu().numpy().astype(np.float64), np.array(columns, np.float64).T]))
        masks += texts
        heard()
    return gathered(np.concatenate(rows), masks, with_masks)


def pack(masks: NDArray[np.uint8]) -> list[bytes]:
    """Masks (N, H, W) of zeros and ones in COCO's compressed run-length form."""
    from pycocotools import mask as coco_mask

    return [coco_mask.encode(np.asfortranarray(mask))["counts"] for mask in masks]


def gathered(own: NDArray[np.float64], masks: list[bytes], with_masks: bool) -> Detections:
    """All ranks' detections: rows (N, 8) of sample, box, score, class and length of the mask, in rank order."""
    content = np.frombuffer(b"".join(masks), np.uint8)
    counts = distributed.gather_rows(torch.tensor([[len(own), len(content)]])).tolist()
    rows = distributed.gather_uneven_rows(torch.from_numpy(own), [one[0] for one in counts]).numpy()
    texts = None
    if with_masks:
        joined = distributed.gather_uneven_rows(torch.from_numpy(content.copy()), [one[1] for one in counts])
        ends = np.cumsum(rows[:, 7].astype(np.int64))
        whole = joined.numpy().tobytes()
        texts = [whole[start:end] for start, end in zip([0, *ends[:-1].tolist()], ends.tolist(), strict=False)]
    return Detections(rows[:, 0].astype(np.int64), rows[:, 1:5], rows[:, 6].astype(np.int64), rows[:, 5], texts)
