"""What a detector finds in images: on every rank its share, each image once, then gathered on all of them.

Images pass through the detector one at a time, so what is found does not depend on ranks or batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dataprep.beton.contract import Beton
from vicreg.detection.detector import Detector
from vicreg.detection.objects_found import Detections
from vicreg.detection.regions import paste_masks
from vicreg.detection.scenes import Scenes, as_input
from vicreg.ranks import distributed

NUM_COLUMNS = 8


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
