"""Average precisions beside an independent loop (VOC), and beside COCO's program on the published form of a list."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dataprep.beton.contract import open_beton
from dataprep.beton.objects import DIFFICULT
from tests.ranks import run_ranks
from tests.vicreg.detection.small_detection import coco_data
from vicreg.detection.coco_measure import measure_coco
from vicreg.detection.detections import gathered, pack
from vicreg.detection.objects_found import Detections, truth
from vicreg.detection.voc_measure import measure_voc
from vicreg.ranks import distributed

NUM_CLASSES = 4


def true_and_found(seed: int) -> tuple[Detections, Detections]:
    """Some objects in 12 images, and detections near them, double ones, and others."""
    random = np.random.default_rng(seed)
    samples = np.sort(random.integers(0, 12, 40))
    corners = random.uniform(0, 80, (40, 2))
    boxes = np.hstack([corners, corners + random.uniform(5, 40, (40, 2))])
    classes = random.integers(0, NUM_CLASSES - 1, 40)  # of the last there is none
    flags = np.where(random.random(40) < 0.25, DIFFICULT, 0).astype(np.uint8)
    true = Detections(samples, boxes, classes, np.ones(40), None, flags, np.prod(boxes[:, 2:] - boxes[:, :2], axis=1))
    picked = random.integers(0, 40, 90)
    moved = boxes[picked] + random.normal(0, 4, (90, 4))
    kinds = np.where(random.random(90) < 0.85, classes[picked], random.integers(0, NUM_CLASSES, 90))
    order = np.argsort(samples[picked], kind="stable")
    found = Detections(samples[picked][order], moved[order], kinds[order], random.random(90).round(2)[order])
    return true, found


def naive_voc(true: Detections, found: Detections, kind: int, threshold: float) -> tuple[float, float]:
    """VOC's rule, one detection after the other."""
    assert true.flags is not None
    places = [k for k in np.argsort(-found.scores, kind="stable") if found.classes[k] == kind]
    taken: set[int] = set()
    hits: list[int] = []
    for k in places:
        best, owner = 0.0, -1
        for other in range(len(true.samples)):
            if true.classes[other] != kind or true.samples[other] != found.samples[k]:
                continue
            (a, b, c, d), (e, f, g, h) = found.boxes[k].tolist(), true.boxes[other].tolist()
            wide, high = min(c, g) - max(a, e), min(d, h) - max(b, f)
            shared = wide * high if wide > 0 and high > 0 else 0.0
            ratio = shared / ((c - a) * (d - b) + (g - e) * (h - f) - shared)
            if ratio > best:
                best, owner = ratio, other
        if best >= threshold and true.flags[owner] == DIFFICULT:
            continue
        hits.append(int(best >= threshold and owner not in taken))
        taken |= {owner} if best >= threshold else set()
    num = sum(1 for k in range(len(true.samples)) if true.classes[k] == kind and true.flags[k] != DIFFICULT)
    if not num:
        return float("nan"), float("nan")
    curve = [(sum(hits[: k + 1]) / num, sum(hits[: k + 1]) / (k + 1)) for k in range(len(hits))]
    eleven = sum(max((p for r, p in curve if r >= t / 10), default=0.0) for t in range(11)) / 11
    area, before = 0.0, 0.0
    for place, (recall, _) in enumerate(curve):
        area += (recall - before) * max(p for _, p in curve[place:])
        before = recall
    return eleven, area


@pytest.mark.parametrize("seed", range(3))
def test_voc_equals_a_loop(seed: int) -> None:
    true, found = true_and_found(seed)
    measured = measure_voc(found, true, NUM_CLASSES)
    for threshold in (0.5, 0.75):
        for kind in range(NUM_CLASSES):
            eleven, area = naive_voc(true, found, kind, threshold)
            np.testing.assert_allclose(measured[threshold].eleven[kind], eleven, rtol=1e-12)
            np.testing.assert_allclose(measured[threshold].area[kind], area, rtol=1e-12)
    assert np.isnan(measured[0.5].eleven[-1])


def test_voc_of_nothing_found_is_zero_and_of_the_truth_one() -> None:
    true, found = true_and_found(0)
    none = measure_voc(found.of(np.zeros(90, bool)), true, NUM_CLASSES)[0.5]
    assert none.eleven[:3].tolist() == [0, 0, 0]
    itself = measure_voc(true, true, NUM_CLASSES)[0.95]
    np.testing.assert_allclose([itself.eleven[:3], itself.area[:3]], 1)


def _perturbed(document: dict[str, Any], with_masks: bool) -> tuple[Detections, list[dict[str, Any]]]:
    """Detections near the truth in our form and in COCO's results format."""
    from pycocotools import mask as coco_mask

    random = np.random.default_rng(5)
    numbers = {image["id"]: number for number, image in enumerate(document["images"])}
    rows, masks, results = [], [], []
    for one in sorted(document["annotations"], key=lambda one: numbers[one["image_id"]]):
        image = document["images"][numbers[one["image_id"]]]
        left, top, wide, high = (np.array(one["bbox"]) + random.normal(0, 2, 4)).clip(1, 60).tolist()
        score = float(round(random.random(), 3))
        mask = np.zeros((image["height"], image["width"]), np.uint8)
        mask[int(top) : int(top + high), int(left) : int(left + wide)] = 1
        (text,) = pack(mask[None])
        kind = one["category_id"] // 10 - 1
        rows.append([numbers[one["image_id"]], left, top, left + wide, top + high, kind, score])
        masks.append(text)
        result = {"image_id": one["image_id"], "category_id": one["category_id"], "score": score}
        of_mask = {"segmentation": coco_mask.encode(np.asfortranarray(mask))}
        results.append(result | (of_mask if with_masks else {"bbox": [left, top, wide, high]}))
    table = np.array(rows)
    found = Detections(table[:, 0].astype(np.int64), table[:, 1:5], table[:, 5].astype(np.int64), table[:, 6], masks)
    return found, results


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_coco_equals_cocos_program_on_the_list_itself(tmp_path: Path, kind: Any) -> None:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    data = coco_data(tmp_path, 4, 8)
    path = tmp_path / "annotations" / "instances_val2017.json"
    found, results = _perturbed(json.loads(path.read_text()), kind == "segm")
    with contextlib.redirect_stdout(io.StringIO()):
        official = COCO(str(path))
        judge = COCOeval(official, official.loadRes(results), kind)
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    beton = open_beton(Path(data.val))
    measured = measure_coco(found, truth(beton, True), beton, kind)
    expected = {name: 100 * value for name, value in zip(measured.summary, judge.stats, strict=False) if value > -1}
    assert 5 < measured.summary["ap"] < 95
    np.testing.assert_allclose([measured.summary[name] for name in expected], list(expected.values()), rtol=1e-12)
    per_class = measured.classes[np.isfinite(measured.classes)]
    np.testing.assert_allclose(per_class.mean(), measured.summary["ap"], rtol=1e-9)


def _gathered() -> Detections:
    own = range(*((0, 2) if distributed.rank() == 0 else (2, 3)))
    if distributed.world_size() == 1:
        own = range(3)
    masks = [b"ab", b"", b"xyz"]
    rows = np.array([[k, k, k + 1, k + 2, k + 3, 0.5, k % 2, len(masks[k])] for k in own], np.float64)
    return gathered(rows, [masks[k] for k in own], True)


def test_gathering_keeps_each_image_once(tmp_path: Path) -> None:
    for found in (_gathered(), run_ranks(_gathered, 2, tmp_path)):
        assert found.samples.tolist() == [0, 1, 2]
        assert found.masks == [b"ab", b"", b"xyz"]
        assert found.boxes[2].tolist() == [2, 3, 4, 5]
        assert found.classes.tolist() == [0, 1, 0]
