"""iNaturalist 2018 in its published layout: the label is the category id, whatever the folders' order."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dataprep.beton.contract import open_beton, read_manifest
from dataprep.sources.inat18 import open_split
from dataprep.writing.raw_source import SourceError
from dataprep.writing.write_plan import WritePlan
from dataprep.writing.writer import write_beton
from tests.dataprep.raw_images import encoded, picture

IDS = (10, 2, 8141, 2)
PATHS = [f"train_val2018/Plantae/{category}/{number:032x}.jpg" for number, category in enumerate(IDS)]


def document() -> dict[str, Any]:
    """Annotations in another order than the images, as nobody promises one."""
    return {
        "images": [
            {"id": 70 + number, "file_name": path, "width": 40, "height": 30} for number, path in enumerate(PATHS)
        ],
        "annotations": [{"id": number, "image_id": 70 + number, "category_id": IDS[number]} for number in (3, 0, 2, 1)],
        "categories": [{"id": 2, "name": "Rosa canina"}, {"id": 10, "name": "Parus major"}],
    }


def write_inat(root: Path, content: object) -> None:
    for number, path in enumerate(PATHS):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(encoded(picture(number), quality=80))
    (root / "val2018.json").write_text(json.dumps(content))


def test_labels_are_category_ids(tmp_path: Path) -> None:
    write_inat(tmp_path, document())
    (tmp_path / PATHS[1]).unlink()
    source = open_split(tmp_path, "val")
    assert [source.relative_path(sample) for sample in range(4)] == PATHS
    assert source.labels.tolist() == list(IDS)
    assert len(source.classes) == 8142
    assert (source.classes[2], source.classes[10], source.classes[8141]) == ("Rosa canina", "Parus major", "8141")
    path = tmp_path / "out" / "val.beton"
    done = write_beton(source, path, WritePlan("passthrough"), num_workers=0)
    assert done.rejected == [(PATHS[1], "listed, but there is no such file")]
    assert open_beton(path).labels.tolist() == [10, 8141, 2]
    assert read_manifest(path)["samples_per_class"]["Parus major"] == 1


def test_without_names_or_with_names_that_repeat(tmp_path: Path) -> None:
    content = document()
    del content["categories"]
    write_inat(tmp_path, content)
    assert open_split(tmp_path, "val").classes == tuple(str(number) for number in range(8142))
    content["categories"] = [{"id": 2, "name": "Rosa"}, {"id": 10, "name": "Rosa"}]
    write_inat(tmp_path, content)
    classes = open_split(tmp_path, "val").classes
    assert (classes[2], classes[3], classes[10]) == ("2 Rosa", "3", "10 Rosa")


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError) as missing:
        open_split(tmp_path, "train")
    for expected in (
        f"{tmp_path}/train2018.json is missing",
        "train2018.json.tar.gz (https://",
        "bfa29d89d629cbf04d82",
    ):
        assert expected in str(missing.value)
    (tmp_path / "train2018.json").write_text("{}")
    with pytest.raises(SourceError) as missing:
        open_split(tmp_path, "train")
    for expected in (
        f"{tmp_path}/train_val2018 is missing",
        "train_val2018.tar.gz",
        "b1c6952ce38f31868cc50ea72d066cc3",
    ):
        assert expected in str(missing.value)
    with pytest.raises(SourceError, match="'test', allowed: train, val"):
        open_split(tmp_path, "test")


def changed(**values: object) -> dict[str, Any]:
    return document() | values


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "cannot be read as JSON with images"),
        ({"images": []}, "KeyError: 'annotations'"),
        (changed(images=[], annotations=[]), "lists no images"),
        (changed(annotations=document()["annotations"][1:]), f"3 annotations for 4 images, none for {PATHS[3]}"),
        (changed(annotations=document()["annotations"] * 2), "8 annotations for 4 images;"),
        (
            changed(annotations=[entry | {"category_id": 8142} for entry in document()["annotations"]]),
            "category ids go from 8142 to 8,142, allowed: 0 to 8,141",
        ),
        (changed(images=[entry | {"file_name": "../x.jpg"} for entry in document()["images"]]), "is not below"),
        (
            changed(images=[entry | {"file_name": "train_val2018/../../x"} for entry in document()["images"]]),
            "is no path below",
        ),
        (changed(categories=[{"id": "two", "name": "x"}]), "TypeError"),
    ],
)
def test_damaged_lists_are_named(tmp_path: Path, content: object, message: str) -> None:
    write_inat(tmp_path, content)
    with pytest.raises(SourceError, match=message):
        open_split(tmp_path, "val")


def test_a_list_that_is_cut_is_named(tmp_path: Path) -> None:
    write_inat(tmp_path, document())
    path = tmp_path / "val2018.json"
    path.write_text(path.read_text()[:100])
    with pytest.raises(SourceError, match=r"val2018\.json cannot be read .*unpack it again"):
        open_split(tmp_path, "val")
