"""VOC2007 in its published layout: vectors as its lists state them, and what is said when something is missing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dataprep.beton.contract import open_beton, read_manifest
from dataprep.sources.voc07 import CLASSES, open_split
from dataprep.writing.raw_source import SourceError
from dataprep.writing.write_plan import WritePlan
from dataprep.writing.writer import write_beton
from tests.dataprep.raw_images import encoded, picture

NUM = {"trainval": 9, "test": 4}


def vectors(split: str) -> np.ndarray:
    return np.random.default_rng(NUM[split]).integers(-1, 2, (NUM[split], 20)).astype(np.int8)


def write_voc(base: Path, splits: tuple[str, ...] = ("trainval", "test")) -> None:
    """Photos and lists; the lists of one class are in another order."""
    (base / "JPEGImages").mkdir(parents=True)
    (base / "ImageSets" / "Main").mkdir(parents=True)
    for split in splits:
        ids = [f"{100 * NUM[split] + number:06d}" for number in range(NUM[split])]
        for number, image in enumerate(ids):
            (base / "JPEGImages" / f"{image}.jpg").write_bytes(encoded(picture(number), quality=80))
        for name, column in zip(CLASSES, vectors(split).T, strict=True):
            lines = [f"{image} {value:2d}" for image, value in zip(ids, column, strict=True)]
            path = base / "ImageSets" / "Main" / f"{name}_{split}.txt"
            path.write_text("\n".join(lines if name != "cow" else reversed(lines)) + "\n")


@pytest.mark.parametrize(("split", "official"), [(s, s) for s in NUM] + [("train", "trainval"), ("val", "test")])
@pytest.mark.parametrize("below", ["VOCdevkit/VOC2007", "VOC2007", "."])
def test_vectors_are_those_of_the_lists(tmp_path: Path, split: str, official: str, below: str) -> None:
    write_voc(tmp_path / below)
    source = open_split(tmp_path, split)
    assert list(source.classes) == sorted(CLASSES)
    assert len(set(CLASSES)) == 20
    assert (source.split, source.label_length) == (split, 20)
    np.testing.assert_array_equal(source.labels, vectors(official))
    first = 100 * NUM[official]
    assert [source.relative_path(sample) for sample in (0, 1)] == [
        f"JPEGImages/{first:06d}.jpg",
        f"JPEGImages/{first + 1:06d}.jpg",
    ]


def test_written_and_read_back(tmp_path: Path) -> None:
    write_voc(tmp_path / "VOC2007")
    (tmp_path / "VOC2007" / "JPEGImages" / "000907.jpg").unlink()
    path = tmp_path / "out" / "train.beton"
    plan = WritePlan("passthrough", limit=6, shuffle_seed=4)
    done = write_beton(open_split(tmp_path, "train"), path, plan, num_workers=2)
    order = plan.order(9)
    assert 7 in order
    assert done.rejected == [("JPEGImages/000907.jpg", "listed, but there is no such file")]
    expected = vectors("trainval")[order[order != 7]]
    np.testing.assert_array_equal(open_beton(path).labels, expected)
    counts = read_manifest(path)["samples_per_class"]["bus"]
    assert counts == {str(value): int((expected[:, 5] == value).sum()) for value in (-1, 0, 1)}


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError) as missing:
        open_split(tmp_path, "train")
    for expected in (
        f"looked in {tmp_path}/VOCdevkit/VOC2007, {tmp_path}/VOC2007, {tmp_path}; unpack VOCtrainval_06-Nov-2007.tar",
        "md5 c52e279531787c972589f7e41ab4ae64",
    ):
        assert expected in str(missing.value)
    base = tmp_path / "VOCdevkit" / "VOC2007"
    write_voc(base, ("trainval",))
    with pytest.raises(SourceError) as missing:
        open_split(tmp_path, "test")
    for expected in (f"{base}/ImageSets/Main/aeroplane_test.txt and 19 more", "unpack VOCtest_06-Nov-2007.tar"):
        assert expected in str(missing.value)
    (base / "ImageSets" / "Main" / "sofa_trainval.txt").unlink()
    with pytest.raises(SourceError, match=r"ImageSets/Main/sofa_trainval\.txt is missing"):
        open_split(tmp_path, "train")
    with pytest.raises(SourceError, match="'minival', allowed: train, trainval, val, test"):
        open_split(tmp_path, "minival")


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("aeroplane", lambda text: text.replace("000903 ", "000903 2 "), "line 4 is '000903 2 .*expected an id"),
        ("dog", lambda text: text.replace("000905", "00090x"), "dog_trainval.txt and aeroplane_tr.* 2 are in"),
        ("dog", lambda text: text + "000999 1\n", "1 are in one of them only, such as 000999"),
        ("dog", lambda text: text + "000900 1\n", "lists 10 images, 9 different ones"),
        ("aeroplane", lambda text: "", "lists 0 images"),
        ("bus", lambda text: "\n".join(line.split()[0] for line in text.splitlines()), "line 1 is '000900'"),
    ],
)  # fmt: skip
def test_damaged_lists_are_named(tmp_path: Path, name: str, change: object, message: str) -> None:
    write_voc(tmp_path)
    path = tmp_path / "ImageSets" / "Main" / f"{name}_trainval.txt"
    assert callable(change)
    path.write_text(change(path.read_text()))
    with pytest.raises(SourceError, match=message):
        open_split(tmp_path, "trainval")
