"""Objects as bytes and back; masks beside COCO's own library; damage is found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from dataprep.beton.contract import manifest_samples, open_beton
from dataprep.beton.objects import (
    CROWD,
    DIFFICULT,
    MASKS,
    OBJECT,
    OBJECTS,
    BadObjects,
    decode_mask,
    decode_masks,
    decode_objects,
    encode_masks,
    encode_objects,
    fault,
    num_outside,
    presence,
    run_lengths,
)
from dataprep.beton.verification import problems
from dataprep.sources.coco_detection import open_split
from dataprep.writing.write_plan import WritePlan
from dataprep.writing.writer import write_beton
from tests.dataprep.raw_detection import write_coco


def some(*boxes: tuple[float, ...]) -> np.ndarray:
    return np.array([(box[:4], 7.5, *(int(v) for v in box[4:])) for box in boxes], OBJECT)


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 1.0])
def test_masks_are_those_of_cocos_library(share: float) -> None:
    random = np.random.default_rng(3)
    for height, width in ((1, 1), (7, 5), (64, 100), (333, 517)):
        blocks = random.random((height // 3 + 1, width // 4 + 1)) < share
        mask = np.asfortranarray(np.kron(blocks, np.ones((3, 4)))[:height, :width].astype(np.uint8))
        text = coco_mask.encode(mask)["counts"]
        np.testing.assert_array_equal(decode_mask(text, height, width), mask)
        assert run_lengths(text)[1::2].sum() == mask.sum()


def test_what_is_no_mask_is_said() -> None:
    text = coco_mask.encode(np.ones((4, 5), np.uint8, order="F"))["counts"]
    with pytest.raises(BadObjects, match="20 pixels, the image has 5 x 5"):
        decode_mask(text, 5, 5)
    for damaged in (b"\x00", b"P", b"o" * 40 + b"1", text + b"O"):
        with pytest.raises(BadObjects):
            decode_mask(damaged, 4, 5)


def test_there_and_back() -> None:
    objects = some((0.25, 1, 3, 4, 2, CROWD), (5, 6, 7, 9, 0, 0))
    stored = np.frombuffer(encode_objects(objects), np.uint8)
    np.testing.assert_array_equal(decode_objects(stored), objects)
    masks = [b"abc", b"", b"0123"]
    packed = np.frombuffer(encode_masks(masks), np.uint8)
    assert decode_masks(packed) == masks
    assert decode_masks(np.frombuffer(encode_masks([]), np.uint8)) == []
    assert len(decode_objects(np.frombuffer(encode_objects(objects[:0]), np.uint8))) == 0
    for cut in (stored[:3], stored[:-1]):
        with pytest.raises(BadObjects):
            decode_objects(cut)
    for cut in (packed[:3], packed[:9], packed[:-1]):
        with pytest.raises(BadObjects):
            decode_masks(cut)


@pytest.mark.parametrize(
    ("box", "said"),
    [
        ((0, 0, 20, 10), ""),
        ((-3, 2, 4, 30), ""),
        ((4, 4, 4, 9), "has no area"),
        ((5, 9, 8, 3), "has no area"),
        ((20, 2, 25, 4), "is outside the image of 20 x 10"),
        ((-9, 2, 0, 4), "is outside the image of 20 x 10"),
        ((np.nan, 2, 5, 4), "is no number"),
    ],
)
def test_faults_of_boxes(box: tuple[float, ...], said: str) -> None:
    found = fault(some((*box, 1, 0))[0], None, (10, 20), 2)
    assert said in found if said else found == ""
    assert "class 1 is none of 1" in fault(some((1, 1, 2, 2, 1, 0))[0], None, (10, 20), 1)


def test_presence_and_boxes_that_reach_out() -> None:
    objects = some((0, 0, 2, 2, 0, 0), (0, 0, 2, 2, 1, DIFFICULT), (-1, 0, 2, 2, 2, CROWD), (0, 0, 9, 2, 1, DIFFICULT))
    assert presence(objects, 4).tolist() == [1, 0, -1, -1]
    assert presence(some((0, 0, 1, 1, 1, 0), (0, 0, 1, 1, 1, DIFFICULT)), 2).tolist() == [-1, 1]
    assert num_outside(objects, (5, 8)) == 2


@pytest.fixture
def beton(tmp_path: Path) -> Path:
    write_coco(tmp_path, {"train": 3})
    path = tmp_path / "out" / "train.beton"
    write_beton(open_split(tmp_path, "train"), path, WritePlan("passthrough"), num_workers=0)
    return path


@pytest.mark.ffcv
def test_plain_ffcv_reads_the_fields(beton: Path) -> None:
    from ffcv.fields import BytesField, IntField, NDArrayField, RGBImageField
    from ffcv.reader import Reader

    handlers = {
        "image": RGBImageField,
        "label": NDArrayField,
        "index": IntField,
        OBJECTS: BytesField,
        MASKS: BytesField,
    }
    reader, ours = Reader(str(beton)), open_beton(beton)
    assert {name: type(handler) for name, handler in reader.handlers.items()} == handlers
    content = beton.read_bytes()
    for sample, row in enumerate(reader.metadata):
        for place, name in ((3, OBJECTS), (4, MASKS)):
            pointer, size = row[f"f{place}"]
            assert content[pointer : pointer + size] == ours.field_bytes(name, sample).tobytes()


def test_damage_of_objects_and_masks_is_found(beton: Path) -> None:
    assert list(problems(beton, decode=True)) == []
    ours, whole = open_beton(beton), beton.read_bytes()
    crcs = [crc for _, crc in manifest_samples(beton)]
    assert [ours.checksum(sample, ours.image_bytes(sample)) for sample in range(3)] == crcs
    for name in (OBJECTS, MASKS):
        content = bytearray(whole)
        content[int(ours.more[name]["ptr"][1])] ^= 0x10  # of the count
        beton.write_bytes(content)
        found = {problem.kind for problem in problems(beton)}
        assert found == {"samples whose bytes have changed", "objects that are damaged"}
