"""The class of every pixel in the layouts of VOC2012 and ADE20k: as the PNGs have it; wrong ones are named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dataprep.beton.contract import open_beton, read_manifest
from dataprep.beton.segments import (
    SEGMENTS,
    VOID,
    BadSegments,
    decode_segments,
    encode_segments,
    shown,
    unknown_class,
)
from dataprep.beton.verification import problems
from dataprep.sources.segmentation import open_ade20k, open_voc12
from dataprep.write_ffcv import main
from dataprep.writing.raw_source import SourceError
from dataprep.writing.write_plan import WritePlan
from dataprep.writing.writer import write_beton
from tests.dataprep.raw_detection import save, scene, write_voc_segmentation


def test_there_and_back() -> None:
    classes = np.random.default_rng(0).integers(0, 5, (7, 9)).astype(np.uint8)
    classes[0, 0] = VOID
    stored = np.frombuffer(encode_segments(classes), np.uint8)
    np.testing.assert_array_equal(decode_segments(stored, 7, 9), classes)
    with pytest.raises(BadSegments, match="9 x 7 pixels, the image has 7 x 9"):
        decode_segments(stored, 9, 7)
    short = encode_segments(classes[:, :8])
    lying = np.frombuffer(encode_segments(classes)[:8] + short[8:], np.uint8)
    for damaged in (stored[:4], stored[:-2], lying, np.zeros(40, np.uint8)):
        with pytest.raises(BadSegments):
            decode_segments(damaged, 7, 9)
    assert unknown_class(classes, 5) == ""
    assert unknown_class(classes, 4) == "class 4 is none of 4"
    assert shown(np.array([[0, 2], [VOID, 2]], np.uint8), 4).tolist() == [1, -1, 1, -1]


def test_voc_is_as_its_pngs_and_wrong_ones_are_named(tmp_path: Path) -> None:
    write_voc_segmentation(tmp_path, {"train": 4, "val": 2})
    folder = tmp_path / "VOCdevkit" / "VOC2012" / "SegmentationClass"
    Image.fromarray(np.full((64, 72), 44, np.uint8)).save(folder / "2012_000001.png")
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(folder / "2012_000002.png")
    (folder / "2012_000003.png").write_bytes(b"no png")
    command = ["voc-segmentation", "--root", str(tmp_path), "--out", str(tmp_path / "out"), "--allow-partial"]
    assert main([*command, "--num-workers", "0"]) == 0
    path = tmp_path / "out" / "train.beton"
    beton, manifest = open_beton(path), read_manifest(path)
    reasons = {name[-8:]: why for name, why in manifest["rejected"]}
    assert reasons["0001.jpg"] == "class 44 is none of 21"
    assert reasons["0002.jpg"] == "its classes are those of 9 x 9 pixels, the image has 72 x 64"
    assert "2012_000003.png cannot be read" in reasons["0003.jpg"]
    with Image.open(folder / "2012_000000.png") as image:
        expected = np.array(image)
    np.testing.assert_array_equal(decode_segments(beton.field_bytes(SEGMENTS, 0), 64, 72), expected)
    assert {int(k) for k in np.unique(expected)} - {VOID} == set(np.flatnonzero(beton.labels[0] == 1).tolist())
    assert list(problems(path)) == []
    content = bytearray(path.read_bytes())
    content[int(beton.more[SEGMENTS]["ptr"][0])] ^= 1
    path.write_bytes(content)
    assert "objects that are damaged" in {problem.kind for problem in problems(path)}


def test_ade20k_counts_from_one_and_its_zero_is_void(tmp_path: Path) -> None:
    base = tmp_path / "ADEChallengeData2016"
    classes = np.zeros((64, 72), np.uint8)
    classes[5:9, 3:20], classes[20:30] = 1, 150
    for part in ("training", "validation"):
        save(base / "images" / part / "ADE_1.jpg", scene(0)[0])
        (base / "annotations" / part).mkdir(parents=True)
        Image.fromarray(classes).save(base / "annotations" / part / "ADE_1.png")
    path = tmp_path / "val.beton"
    write_beton(open_ade20k(tmp_path, "val"), path, WritePlan("passthrough"), num_workers=0)
    beton = open_beton(path)
    found = decode_segments(beton.field_bytes(SEGMENTS, 0), 64, 72)
    np.testing.assert_array_equal(found == VOID, classes == 0)
    assert (int(found[6, 4]), int(found[25, 0])) == (0, 149)
    assert np.flatnonzero(beton.labels[0] == 1).tolist() == [0, 149]


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"SegmentationClass is missing; unpack VOCtrainval_11-May-2012.tar"):
        open_voc12(tmp_path, "train")
    with pytest.raises(SourceError, match=r"images/training is missing; unpack ADEChallengeData2016.zip"):
        open_ade20k(tmp_path, "train")
