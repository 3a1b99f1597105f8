"""Linear segmentation: crops that fit their pixels, the measure as a loop counts it, stopped and gone on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dataprep.beton.contract import open_beton
from dataprep.beton.segments import SEGMENTS, VOID, decode_segments
from dataprep.sources.segmentation import open_voc12
from dataprep.writing.write_plan import WritePlan
from dataprep.writing.writer import write_beton
from tests.dataprep.raw_detection import COLOURS, write_voc_segmentation
from tests.ranks import run_ranks
from tests.vicreg.detection.small_detection import small_encoder, voc_data
from tests.vicreg.evals.test_detection import stop_after
from vicreg.config import DataConfig
from vicreg.detection.crops import CropLoader, CropSettings
from vicreg.evals import linear_segmentation
from vicreg.evals.features import open_splits
from vicreg.evals.linear_segmentation import Config, evaluate
from vicreg.evals.results import Measured
from vicreg.evals.work import Stopped, Work

CPU = torch.device("cpu")
SMALL = Config(steps=5, batch=4, lr=0.01, warmup_steps=2, crop=64)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    return voc12_data(tmp_path_factory.mktemp("voc12"))


def voc12_data(root: Path) -> DataConfig:
    """VOC2012's layout of segmentation as betons, and where they are."""
    write_voc_segmentation(root, {"train": 10, "val": 5})
    for split in ("train", "val"):
        write_beton(open_voc12(root, split), root / f"{split}.beton", WritePlan("passthrough"), num_workers=0)
    return DataConfig(train=str(root / "train.beton"), val=str(root / "val.beton"), image_size=64, eval_resize=64)


def measured(data: DataConfig, config: Config, work: Work | None = None) -> Measured:
    return evaluate(small_encoder(), open_splits(data, CPU, 1), config, work)


def test_crops_have_the_classes_of_their_pixels(data: DataConfig) -> None:
    beton, settings = open_beton(Path(data.train)), CropSettings(4, 48, (0.5, 2.0), 0.5, 3)
    whole = list(CropLoader(data, beton, settings, 0, 1, False).batches(0, 4, 2))
    parts = [list(CropLoader(data, beton, settings, rank, 2, False).batches(1, 4, 2)) for rank in range(2)]
    sizes, right, num = set(), 0, 0
    for number, (scenes, classes) in enumerate(whole):
        if number:
            assert torch.equal(torch.cat([part[number - 1][1] for part in parts]), classes)
        assert tuple(classes.shape) == (4, 64, 64)
        for image, known, (height, width) in zip(scenes.images, classes, scenes.sizes, strict=True):
            assert bool((known[height:] == VOID).all())
            assert bool((known[:, width:] == VOID).all())
            inside = known[:height, :width]
            for kind in range(1, 4):
                found = image[:, :height, :width].permute(1, 2, 0)[inside == kind].float()
                right += int(((found - torch.from_numpy(COLOURS[kind - 1])).abs().amax(1) < 60).sum())
                num += len(found)
            sizes.add((height, width))
    assert num > 500
    assert right > 0.97 * num
    assert len(sizes) > 3


def test_the_measure_is_what_a_loop_counts(data: DataConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    def scores(self: object, images: torch.Tensor) -> torch.Tensor:
        found = torch.zeros(1, 21, *images.shape[2:])
        found[:, 2] = 1  # everything is of class 2
        return found

    monkeypatch.setattr(linear_segmentation.LinearHead, "forward", scores)
    monkeypatch.setattr(linear_segmentation.HeadTraining, "run", lambda self, work: None)
    found = measured(data, SMALL)
    val = open_beton(Path(data.val))
    maps = [decode_segments(val.field_bytes(SEGMENTS, sample), 64, 72) for sample in range(5)]
    pixels = np.concatenate([one[one != VOID] for one in maps])
    present = np.unique(pixels)
    expected = 100 * float((pixels == 2).mean()) / len(present)
    assert found.metrics["miou"] == pytest.approx(expected)
    assert found.metrics["accuracy_pixels"] == pytest.approx(100 * float((pixels == 2).mean()))
    assert len(found.details["iou"]) == len(present)


def test_stopping_and_going_on_gives_the_same_bits(data: DataConfig, tmp_path: Path) -> None:
    whole = measured(data, SMALL)
    for steps in (2, 6):  # while learning, while measuring
        with pytest.raises(Stopped):
            measured(data, SMALL, stop_after(steps, tmp_path / str(steps)))
        assert measured(data, SMALL, Work(tmp_path / str(steps))) == whole


def test_colours_are_learned(data: DataConfig) -> None:
    before = measured(data, replace(SMALL, steps=1, lr=1e-9)).metrics["miou"]
    after = measured(data, replace(SMALL, steps=60)).metrics
    assert after["accuracy_pixels"] > 80
    assert after["miou"] > before


@pytest.mark.slow
def test_two_ranks_measure_the_same(data: DataConfig, tmp_path: Path) -> None:
    mine, reference = run_ranks(measured, 2, tmp_path, data, SMALL), measured(data, SMALL)
    assert mine.details["loss"] == pytest.approx(reference.details["loss"], rel=1e-3)
    assert mine.metrics["accuracy_pixels"] == pytest.approx(reference.metrics["accuracy_pixels"], abs=1)


def test_what_cannot_be_measured_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"val.beton has no field segments.*voc-segmentation or ade20k"):
        measured(voc_data(tmp_path), SMALL)
    with pytest.raises(ValueError, match="crop is 8, allowed: 32 or more"):
        replace(SMALL, crop=8)
