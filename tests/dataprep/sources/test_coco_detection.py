"""COCO's lists in their layout: boxes, masks, crowds, and what is said of wrong ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dataprep.beton.contract import open_beton, read_manifest
from dataprep.beton.objects import CROWD, MASKS, OBJECTS, decode_mask, decode_masks, decode_objects
from dataprep.sources.coco_detection import open_split
from dataprep.writing.raw_source import SourceError
from dataprep.writing.write_plan import WritePlan
from dataprep.writing.writer import write_beton
from tests.dataprep.raw_detection import SIDE, scene, write_coco

RUNS = {"size": [SIDE, SIDE + 8], "counts": [SIDE, 2, SIDE * (SIDE + 7) - 2]}


def written(root: Path) -> tuple[Any, dict[str, Any]]:
    path = root / "out" / "train.beton"
    write_beton(open_split(root, "train"), path, WritePlan("passthrough"), num_workers=0)
    return open_beton(path), read_manifest(path)


def test_boxes_and_masks_are_those_of_the_list(tmp_path: Path) -> None:
    write_coco(tmp_path, {"train": 4}, {"iscrowd": 1, "segmentation": RUNS, "area": 2.0})
    beton, manifest = written(tmp_path)
    assert manifest["classes"] == ["red", "green", "blue"]  # by their ids, not in the list's order
    for sample in range(4):
        height, width = int(beton.heights[sample]), int(beton.widths[sample])
        found = decode_objects(beton.field_bytes(OBJECTS, sample))
        masks = decode_masks(beton.field_bytes(MASKS, sample))
        expected = scene(5000 + sample)[1]
        assert [(*box, kind) for box, kind in zip(found["box"].tolist(), found["class"], strict=True)] == expected
        for number, (mask, (left, top, right, bottom, _)) in enumerate(zip(masks, expected, strict=True)):
            wanted = np.zeros((height, width), np.uint8)
            if (sample, number) == (0, 0):
                wanted[:2, 1] = 1
            else:
                wanted[top:bottom, left:right] = 1
            np.testing.assert_array_equal(decode_mask(mask, height, width), wanted)
        assert found["flags"].tolist() == [CROWD if (sample, k) == (0, 0) else 0 for k in range(len(expected))]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"category_id": 77}, "category 77 is none of 3"),
        ({"segmentation": {**RUNS, "size": [9, 9]}}, "mask of size [9, 9], the image has [64, 72]"),
        ({"segmentation": {**RUNS, "counts": [3, 4]}}, "a mask of 7 pixels"),
        ({"segmentation": {**RUNS, "counts": "\u00e4"}}, "no numbers"),
        ({"segmentation": []}, "mask without polygons"),
        ({"segmentation": [[1, 1, 2, 2]]}, "mask without polygons"),
        ({"segmentation": [[1, 1, 2, 2, 1e300, 3]]}, "mask without polygons"),
        ({"bbox": [5, 5, 0, 9]}, "has no area"),
        ({"bbox": [500, 5, 4, 9]}, "is outside the image"),
    ],
)
def test_wrong_objects_are_left_out_by_name(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    write_coco(tmp_path, {"train": 2}, change)
    beton, manifest = written(tmp_path)
    ((name, why),) = manifest["left_out"]
    assert name == "train2017/000000000000.jpg"
    assert said in why
    assert len(decode_objects(beton.field_bytes(OBJECTS, 0))) == len(scene(5000)[1]) - 1
    assert len(decode_masks(beton.field_bytes(MASKS, 0))) == len(scene(5000)[1]) - 1


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("images", [], "0 images"),
        ("categories", [], "0 categories"),
        ("categories", [{"id": 1, "name": "a"}, {"id": 2, "name": "a"}], "2 categories, 1 different names"),
        ("images", [{"id": 99, "file_name": "a", "height": 3, "width": 3}], "images that it does not list"),
        ("images", None, "is no list of instances"),
    ],
)
def test_lists_that_cannot_be_are_one_line(tmp_path: Path, key: str, value: Any, said: str) -> None:
    document = write_coco(tmp_path, {"train": 1})["train"] | {key: value}
    path = tmp_path / "annotations" / "instances_train2017.json"
    path.write_text(json.dumps(document))
    with pytest.raises(SourceError, match=r"instances_train2017\.json") as error:
        open_split(tmp_path, "train")
    assert said in str(error.value)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"instances_val2017.json is missing.*annotations_trainval2017.zip"):
        open_split(tmp_path, "val")
