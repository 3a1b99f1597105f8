"""VOC for detection in its layout: boxes as the annotations state them, and what is said of wrong ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from dataprep.beton.contract import open_beton, read_manifest
from dataprep.beton.objects import DIFFICULT, OBJECTS, decode_objects
from dataprep.sources.voc07 import CLASSES
from dataprep.sources.voc_detection import open_split, read_annotation
from dataprep.write_ffcv import main
from dataprep.writing.raw_source import SourceError
from tests.dataprep.raw_detection import SIDE, scene, write_annotation, write_voc

NAMES = ("bird", "cat", "cow")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_voc(tmp_path, {"2007_trainval": 3, "2012_trainval": 2, "2007_test": 2})
    return tmp_path


def test_both_years_are_one_training_set(root: Path) -> None:
    source = open_split(root, "train", "07+12")
    paths = [source.relative_path(sample) for sample in range(len(source))]
    assert paths[2:4] == ["VOC2007/JPEGImages/000002.jpg", "VOC2012/JPEGImages/000003.jpg"]
    assert (len(open_split(root, "train", "07")), len(open_split(root, "val", "07+12"))) == (3, 2)
    assert source.objects is not None
    for sample in range(len(source)):
        found = source.objects(sample).objects
        expected = scene(sample)[1]
        assert [tuple(box) for box in found["box"].tolist()] == [one[:4] for one in expected]
        assert [CLASSES[number] for number in found["class"]] == [NAMES[one[4]] for one in expected]
        assert {CLASSES[k] for k in (source.labels[sample] == 1).nonzero()[0]} == {NAMES[one[4]] for one in expected}


def test_written_and_read_back_and_faults_named(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = root / "VOCdevkit" / "VOC2007"
    size = (SIDE, SIDE + 8)
    odd = [(1, 1, 20, 20, 0), (30, 30, 30, 40, 1), (90, 1, 95, 9, 1), (60, 3, 99, 9, 2), (1, 1, 5, 5, 3)]
    write_annotation(base / "Annotations" / "000000.xml", size, odd, (*NAMES, "head"), difficult=1)
    write_annotation(base / "Annotations" / "000001.xml", (99, 98), [(1, 1, 9, 9, 0)], NAMES)
    (base / "JPEGImages" / "000002.jpg").unlink()
    command = [
        "voc-detection",
        "--root",
        str(root),
        "--out",
        str(root / "out"),
        "--allow-partial",
        "--num-workers",
        "0",
    ]
    assert main(command) == 0
    beton, manifest = open_beton(root / "out" / "train.beton"), read_manifest(root / "out" / "train.beton")
    assert dict(manifest["rejected"]) == {
        "VOC2007/JPEGImages/000001.jpg": "its objects are those of 98 x 99 pixels, the image has 72 x 64",
        "VOC2007/JPEGImages/000002.jpg": "listed, but there is no such file",
    }
    assert [name for name, _ in manifest["left_out"]] == ["VOC2007/JPEGImages/000000.jpg"] * 3
    reasons = "; ".join(why for _, why in manifest["left_out"])
    assert "'head' is none of the 20 classes" in reasons
    assert "has no area" in reasons
    assert "is outside the image" in reasons
    first = decode_objects(beton.field_bytes(OBJECTS, 0))
    assert first["box"].tolist() == [[1, 1, 20, 20], [60, 3, 99, 9]]
    assert first["flags"].tolist() == [DIFFICULT, DIFFICULT]
    assert set(beton.labels[0].tolist()) == {0, -1}
    assert (manifest["num_objects"], manifest["num_outside"]) == (2 + len(scene(3)[1]) + len(scene(4)[1]), 1)
    assert main(command) == 0
    assert "already there" in capsys.readouterr().out
    write_annotation(base / "Annotations" / "000000.xml", size, odd[:1], NAMES)
    assert main(command) == 1
    assert "annotations_crc32" in capsys.readouterr().err
    assert main([*command, "--overwrite", "--max-resolution", "40"]) == 1
    assert "--max-resolution" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no element found"),
        (b"<annotation/>", "size/height is ''"),
        (b'<!DOCTYPE a [<!ENTITY b "c">]><annotation/>', "document type"),
        ("<annotation/>".encode("utf-16"), "no UTF-8"),
        (b"<a><size><height>9</height><width>0</width></size></a>", "its size is 0 x 9"),
        (b"<a><size><height>9</height><width>nan</width></size></a>", "its size is nan x 9"),
        (
            b"<a><size><height>9</height><width>9</width></size><object><name>cat</name></object></a>",
            "bndbox/xmin is ''",
        ),
        (b"<a>" * 100_000, "no element found"),
    ],
)
def test_what_is_no_annotation_is_one_line(content: bytes, said: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"x\.xml is no annotation") as error:
        read_annotation(content, tmp_path / "x.xml")
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_what_is_missing_is_named(root: Path) -> None:
    (root / "VOCdevkit" / "VOC2012" / "ImageSets" / "Main" / "trainval.txt").unlink()
    with pytest.raises(SourceError, match=r"VOC2012.*VOCtrainval_11-May-2012.tar.*--years 07"):
        open_split(root, "train", "07+12")
    (root / "VOCdevkit" / "VOC2007" / "Annotations" / "000001.xml").unlink()
    with pytest.raises(SourceError, match=r"000001.xml cannot be read"):
        open_split(root, "train", "07")
    with pytest.raises(SourceError, match="allowed: train, trainval, val, test"):
        open_split(root, "dev", "07")
