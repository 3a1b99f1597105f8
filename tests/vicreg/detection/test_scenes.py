"""Scenes for training: functions of seed and step on any number of ranks, and right to the pixel."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dataprep.beton.contract import open_beton
from dataprep.beton.objects import CROWD, OBJECTS, decode_objects
from dataprep.sources import coco_detection
from dataprep.writing.write_plan import WritePlan
from dataprep.writing.writer import write_beton
from tests.dataprep.raw_detection import write_coco
from tests.vicreg.detection.small_detection import FPN, coco_data, voc_data
from vicreg.config import DataConfig
from vicreg.detection.scenes import (
    SceneLoader,
    Scenes,
    as_input,
    open_with_objects,
    padded,
    scene_size,
    whole_scenes,
)
from vicreg.detection.settings import Settings


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    return coco_data(tmp_path_factory.mktemp("coco"))


def load(
    data: DataConfig, first: int, last: int, rank: int = 0, world: int = 1, settings: Settings = FPN
) -> list[Scenes]:
    loader = SceneLoader(data, Path(data.train), settings, rank=rank, world_size=world, workers=2, pinned=False)
    return list(loader.batches(first, last))


def test_ranks_and_beginnings_have_no_part_in_it(data: DataConfig) -> None:
    whole = load(data, 0, 6)
    for first, world in ((0, 2), (4, 1), (3, 4)):
        parts = [load(data, first, 6, rank, world) for rank in range(world)]
        for number, expected in enumerate(whole[first:]):
            own = [part[number] for part in parts]
            assert np.concatenate([one.samples for one in own]).tolist() == expected.samples.tolist()
            assert [size for one in own for size in one.sizes] == expected.sizes
            images = torch.cat([as_input(one, torch.Tensor.float) for one in own])
            torch.testing.assert_close(images, as_input(expected, torch.Tensor.float), rtol=0, atol=0)
            targets = [target for one in own for target in one.targets]
            for mine, other in zip(targets, expected.targets, strict=True):
                assert mine.keys() == other.keys()
                assert all(torch.equal(mine[key], other[key]) for key in mine)
    flat = [sample for scenes in whole[:2] for sample in scenes.samples.tolist()]
    assert len(set(flat)) == 8  # of an epoch each once


def test_boxes_and_masks_follow_size_and_flip(data: DataConfig) -> None:
    beton = open_beton(Path(data.train))
    seen = set()
    for scenes in load(data, 0, 6):
        for number, sample in enumerate(scenes.samples.tolist()):
            height, width = scenes.sizes[number]
            assert height in (48, 64)
            stored_height, stored_width = int(beton.heights[sample]), int(beton.widths[sample])
            target = scenes.targets[number]
            objects = decode_objects(beton.field_bytes(OBJECTS, sample))
            pixels = scenes.images[number, :, :height, :width].float()
            for one, box, label, mask in zip(objects, *(target[k] for k in ("boxes", "labels", "masks")), strict=True):
                left, _, right, _ = (one["box"] * width / stored_width).tolist()
                flipped = abs(float(box[0]) - left) > 1e-3
                expected = (width - right, width - left) if flipped else (left, right)
                np.testing.assert_allclose(box[[0, 2]], expected, atol=1e-4)
                np.testing.assert_allclose(box[[1, 3]], one["box"][[1, 3]] * height / stored_height, atol=1e-4)
                assert int(label) == int(one["class"]) + 1
                inner = pixels[:, int(box[1]) + 3 : int(box[3]) - 3, int(box[0]) + 3 : int(box[2]) - 3]
                assert int(inner.mean((1, 2)).argmax()) == int(label) - 1  # red, green, blue
                rows, columns = torch.nonzero(mask, as_tuple=True)
                span = torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
                torch.testing.assert_close(box * target["mask_scale"], span.float(), rtol=0, atol=0.02)
                seen.add((flipped, height))
    assert {flipped for flipped, _ in seen} == {True, False}
    assert {height for _, height in seen} == {48, 64}


def test_what_is_beyond_an_image_is_zero(data: DataConfig) -> None:
    for scenes in load(data, 0, 3):
        images = as_input(scenes, lambda pixels: pixels.float() + 1)
        assert tuple(images.shape[2:]) == padded(scenes.sizes)
        for image, (height, width) in zip(images, scenes.sizes, strict=True):
            assert bool((image[:, :height, :width] > 0).all())
            assert not image[:, height:].any()
            assert not image[:, :, width:].any()


def test_crowds_teach_nothing(tmp_path: Path) -> None:
    data = coco_data(tmp_path, 5, 2)
    write_coco(tmp_path, {"train": 5}, {"iscrowd": 1})  # the only object of the first image
    write_beton(coco_detection.open_split(tmp_path, "train"), Path(data.train), WritePlan("passthrough"), num_workers=0)
    assert decode_objects(open_beton(Path(data.train)).field_bytes(OBJECTS, 0))["flags"].tolist() == [CROWD]
    assert {sample for scenes in load(data, 0, 4) for sample in scenes.samples.tolist()} == {1, 2, 3, 4}


def test_whole_scenes_come_in_order_and_size(data: DataConfig) -> None:
    beton = open_beton(Path(data.val))
    found = list(whole_scenes(data, beton, range(1, 4), 64, 128, 2))
    assert [int(one.samples[0]) for one in found] == [1, 2, 3]
    stored = torch.from_numpy(beton.decode(1)).permute(2, 0, 1)[None]
    size = found[0].sizes[0]
    assert size == (64, 72)
    torch.testing.assert_close(found[0].images[:, :, :64, :72], stored, rtol=0, atol=0)


def test_sizes_are_detectron2s() -> None:
    assert scene_size(375, 500, 800, 1333) == (800, 1067)
    assert scene_size(500, 375, 480, 1333) == (640, 480)
    assert scene_size(200, 600, 800, 1333) == (444, 1333)
    assert padded([(10, 65), (33, 20)]) == (64, 96)


def test_channels_that_are_no_colours_are_refused(tmp_path: Path) -> None:
    write_coco(tmp_path, {"train": 2})
    plan = WritePlan("raw", channels=3)
    write_beton(coco_detection.open_split(tmp_path, "train"), tmp_path / "a.beton", plan, num_workers=0)
    assert OBJECTS in open_beton(tmp_path / "a.beton").more
    with pytest.raises(ValueError, match=r"a.beton has images of .*, allowed here: RGB of 8 bits"):
        open_with_objects(tmp_path / "a.beton", False)


def test_what_cannot_be_learned_is_said(data: DataConfig, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="batch is 99, allowed"):
        load(data, 0, 1, settings=replace(FPN, batch=99))
    with pytest.raises(ValueError, match=r"train.beton has no field masks, needed for detection.*coco-detection"):
        load(voc_data(tmp_path), 0, 1)
