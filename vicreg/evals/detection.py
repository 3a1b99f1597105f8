"""Detection, and instance segmentation where there are masks: a detector on the encoder, fine-tuned and measured.

Settings and their sources: vicreg/detection/settings.py; the protocol, and in what it differs from detectron2's:
docs/evaluations.md. Every image of the validation beton counts once, on any number of ranks.
"""

from __future__ import annotations

import math
from contextlib import closing
from typing import Any

import numpy as np
from torch import nn

from dataprep.beton.manifest import class_names
from vicreg.detection.coco_measure import measure_coco
from vicreg.detection.objects_found import Detections, truth
from vicreg.detection.pictures import show
from vicreg.detection.scenes import open_with_objects, whole_scenes
from vicreg.detection.voc_measure import THRESHOLDS, measure_voc
from vicreg.evals.features import Splits
from vicreg.evals.results import Measured
from vicreg.evals.settings.detection import Config as Config
from vicreg.evals.work import Work
from vicreg.ranks import distributed
from vicreg.views.order import shard

RESUMES = True  # it keeps its state and leaves by itself when it is asked to


def evaluate(encoder: nn.Module, splits: Splits, config: Config, work: Work | None = None) -> Measured:
    """Average precisions in percent.

    voc: `ap50` by 11 points, as published, `ap75`, `ap` (mean over overlaps of 0.5 to 0.95), and `ap50_area`. coco:
    `ap_box`, `ap50_box`, ... and with masks `ap_mask`, .... Raises ValueError where the betons have no objects, the
    encoder has not the maps that the head needs, the ranks do not divide the batch, or the loss does not stay finite;
    Stopped when `work` asks to stop.
    """
    from vicreg.detection.detections import detect  # these import torchvision, which a plan does without
    from vicreg.evals.detector_training import DetectorTraining

    val = open_with_objects(splits.beton("val"), config.masks)
    if not (val.labels == 1).any():
        raise ValueError(f"{val.path} shows no objects but difficult ones, allowed for detection: some to be found")
    names, learned = class_names(val.path), class_names(splits.beton("train"))
    if names != learned or names is None:
        raise ValueError(
            f"{splits.data.train} and {val.path} must have manifests that list the same classes; write both alike"
        )
    tuning = DetectorTraining(encoder, splits, config)
    work = work or Work()
    tuning.run(work)
    heard = work.while_measuring(val.num_samples, config.steps, tuning.state)
    own = shard(val.num_samples, distributed.rank(), distributed.world_size())
    sides = config.test_short_side, config.longest_side
    with closing(whole_scenes(splits.data, val, own, *sides, splits.workers)) as scenes:
        found = detect(tuning.model, scenes, val, splits.device, splits.normalise, heard)
    true = truth(val, config.masks)
    if config.measure == "voc":
        metrics, classes = _voc(found, true, splits.num_classes)
    else:
        boxes = measure_coco(found, true, val, "bbox")
        metrics, classes = {f"{name}_box": value for name, value in boxes.summary.items()}, boxes.classes
        if config.masks:
            masks = measure_coco(found, true, val, "segm")
            metrics |= {f"{name}_mask": value for name, value in masks.summary.items()}
    known = {name: {"ap": float(value)} for name, value in zip(names, classes, strict=True) if math.isfinite(value)}
    details = {"steps": config.steps, "loss": tuning.curve, "classes": known}
    details["left_out"] = {name: "no objects" for name in names if name not in known}
    return Measured(metrics, details | {"pictures": show(val, found, true, names)})


def _voc(found: Detections, true: Detections, num_classes: int) -> tuple[dict[str, float], np.ndarray[Any, Any]]:
    """Means over the classes that have objects, and by 11 points at 0.5 of each class; percent."""
    measured = measure_voc(found, true, num_classes)
    eleven = {threshold: 100 * float(np.nanmean(measured[threshold].eleven)) for threshold in THRESHOLDS}
    area = 100 * float(np.nanmean(measured[0.5].area))
    mean = sum(eleven.values()) / len(eleven)
    return {"ap50": eleven[0.5], "ap": mean, "ap75": eleven[0.75], "ap50_area": area}, 100 * measured[0.5].eleven
