"""Average precision as PASCAL VOC measures it: 11 points (VOC2007) and area under the curve (later years).

Detections of a class are taken in falling order of their scores over all images; each belongs to the true box that it
overlaps most, if by the threshold or more. The first for a box is right, further ones are wrong; what belongs to a
difficult object counts neither way, and such objects are not missed (VOC development kit; detectron2 measures VOC2007
with its 11 points).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dataprep.beton.objects import DIFFICULT
from vicreg.detection.objects_found import Detections

THRESHOLDS = tuple(np.arange(50, 100, 5) / 100)


@dataclass(frozen=True)
class VocPrecision:
    """Average precisions of each class (K,) from 0 to 1 at an overlap; not a number for classes without objects."""

    eleven: NDArray[np.float64]
    area: NDArray[np.float64]


def measure_voc(found: Detections, true: Detections, num_classes: int) -> dict[float, VocPrecision]:
    """The average precisions at each of the thresholds."""
    per_class = [_matches(found.of(found.classes == k), true.of(true.classes == k)) for k in range(num_classes)]
    return {
        threshold: VocPrecision(
            np.array([_precision(*one, threshold)[0] for one in per_class]),
            np.array([_precision(*one, threshold)[1] for one in per_class]),
        )
        for threshold in THRESHOLDS
    }


_Matches = tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.bool_]]


def _matches(found: Detections, true: Detections) -> _Matches:
    """Of one class: each detection's largest overlap and its true box, best score first; which boxes are difficult."""
    assert true.flags is not None
    order = np.argsort(-found.scores, kind="stable")
    samples, boxes = found.samples[order], found.boxes[order]
    overlaps, owners = np.zeros(len(order)), np.full(len(order), -1)
    starts, ends = (np.searchsorted(true.samples, samples, side) for side in ("left", "right"))
    for number, (start, end) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True)):
        if start < end:
            ratios = overlap(boxes[number], true.boxes[start:end])
            best = int(ratios.argmax())
            overlaps[number], owners[number] = ratios[best], start + best
    return overlaps, owners, true.flags == DIFFICULT


def overlap(box: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    """Intersection over union of a box (4,) with others (N, 4)."""
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    shared = np.prod(np.clip(sides, 0, None), axis=1)
    areas = np.prod(others[:, 2:] - others[:, :2], axis=1) + np.prod(box[2:] - box[:2]) - shared
    return np.asarray(shared / np.maximum(areas, np.finfo(np.float64).tiny))


def _precision(
    overlaps: NDArray[np.float64], owners: NDArray[np.int64], difficult: NDArray[np.bool_], threshold: float
) -> tuple[float, float]:
    """Average precision by 11 points, and by area."""
    num = int((~difficult).sum())
    if not num:
        return float("nan"), float("nan")
    belongs = (owners >= 0) & (overlaps >= threshold)
    counted = ~(belongs & difficult[owners]) if len(difficult) else np.ones(len(owners), bool)
    first = np.zeros(len(owners), bool)
    places = np.flatnonzero(belongs)
    first[places[np.unique(owners[places], return_index=True)[1]]] = True
    right = np.cumsum((first & counted)[counted])
    precision, recall = right / np.arange(1, len(right) + 1), right / num
    points = [precision[recall >= share].max(initial=0.0) for share in np.arange(11) / 10]
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    area = float((np.diff(recall, prepend=0.0) * envelope).sum())
    return float(np.mean(points)), area
