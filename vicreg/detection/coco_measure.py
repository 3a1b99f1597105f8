"""Average precision as COCO measures it, by COCO's own program (pycocotools)."""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dataprep.beton.contract import Beton
from dataprep.beton.objects import CROWD, run_lengths
from vicreg.detection.objects_found import Detections

SUMMARY = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
"""The first of the numbers that COCO's program sums up: over overlaps of 0.5 to 0.95, at 0.5, at 0.75, by size."""


@dataclass(frozen=True)
class CocoPrecision:
    """Percentages; below zero where there is nothing to measure."""

    summary: dict[str, float]
    classes: NDArray[np.float64]
    """(K,) `ap` of each class; not a number for classes without objects."""


def measure_coco(found: Detections, true: Detections, beton: Beton, kind: Literal["bbox", "segm"]) -> CocoPrecision:
    """The average precisions of boxes, or of masks, over all images of a beton and their `true` objects."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    num_classes = beton.labels.shape[1]
    with contextlib.redirect_stdout(io.StringIO()):  # it tells of its progress
        official = COCO()
        official.dataset = {
            "info": {},
            "images": [
                {"id": sample, "height": int(beton.heights[sample]), "width": int(beton.widths[sample])}
                for sample in range(beton.num_samples)
            ],
            "categories": [{"id": number, "name": str(number)} for number in range(num_classes)],
            "annotations": _as_coco(true, beton, kind),
        }
        official.createIndex()
        answers = COCO()
        answers.dataset = official.dataset | {"annotations": _as_coco(found, beton, kind)}
        answers.createIndex()
        judge = COCOeval(official, answers, kind)
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    precision = judge.eval["precision"][:, :, :, 0, 2]  # (thresholds, recalls, classes), all sizes, 100 detections
    known = precision > -1
    counts = known.sum(axis=(0, 1))
    sums = np.where(known, precision, 0).sum(axis=(0, 1))
    classes = np.where(counts > 0, 100 * sums / np.maximum(counts, 1), np.nan)
    summary = {name: 100 * float(value) for name, value in zip(SUMMARY, judge.stats, strict=False) if value > -1}
    return CocoPrecision(summary, classes)


def _as_coco(objects: Detections, beton: Beton, kind: Literal["bbox", "segm"]) -> list[dict[str, Any]]:
    """Objects as COCO's program takes them; its ids begin with 1."""
    sides = objects.boxes[:, 2:] - objects.boxes[:, :2]
    boxes = np.hstack([objects.boxes[:, :2], sides]).tolist()
    areas = objects.areas if objects.areas is not None else _areas(objects, kind, sides)
    crowds = (objects.flags & CROWD) != 0 if objects.flags is not None else np.zeros(len(boxes), bool)
    columns = zip(objects.samples.tolist(), objects.classes.tolist(), boxes, areas.tolist(), crowds, strict=True)
    found = [
        {"id": number, "image_id": image, "category_id": kind, "bbox": box, "area": area, "iscrowd": int(crowd)}
        for number, (image, kind, box, area, crowd) in enumerate(columns, 1)
    ]
    for number, (one, score) in enumerate(zip(found, objects.scores.tolist(), strict=True)):
        one["score"] = score
        if objects.masks is not None:
            size = [int(beton.heights[one["image_id"]]), int(beton.widths[one["image_id"]])]
            one["segmentation"] = {"size": size, "counts": objects.masks[number]}
    return found


def _areas(objects: Detections, kind: Literal["bbox", "segm"], sides: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of detections: that of what is measured, as COCO's program has it when it loads results."""
    if kind == "bbox" or objects.masks is None:
        return np.asarray(np.prod(sides, axis=1))
    return np.array([float(run_lengths(mask)[1::2].sum()) for mask in objects.masks])
