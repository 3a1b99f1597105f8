"""Fine-tuning for detection: stopped and gone on to the same bits, on two ranks, and learning what is there."""

from __future__ import annotations

import base64
import io
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.ranks import run_ranks
from tests.vicreg.detection.small_detection import C4, FPN, coco_data, small_encoder, voc_data
from vicreg.config import DataConfig
from vicreg.detection.settings import Settings
from vicreg.evals.detection import evaluate
from vicreg.evals.features import open_splits
from vicreg.evals.results import Measured
from vicreg.evals.work import STATE_FOLDER, Stopped, Work

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def voc(tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    return voc_data(tmp_path_factory.mktemp("voc"))


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    return coco_data(tmp_path_factory.mktemp("coco"))


def measured(data: DataConfig, settings: Settings, work: Work | None = None) -> Measured:
    return evaluate(small_encoder(), open_splits(data, CPU, 1), settings, work)


def stop_after(steps: int, folder: Path) -> Work:
    left = [steps]

    def should_stop() -> bool:
        left[0] -= 1
        return left[0] < 0

    return Work(folder, should_stop=should_stop)


@pytest.fixture(scope="module")
def whole(voc: DataConfig) -> Measured:
    """Measured on an encoder that other evaluations share, and that is as it was therefore."""
    encoder, untouched = small_encoder(), small_encoder().state_dict()
    found = evaluate(encoder, open_splits(voc, CPU, 1), C4)
    assert all(torch.equal(tensor, untouched[name]) for name, tensor in encoder.state_dict().items())
    return found


@pytest.mark.parametrize("steps", [1, 3, 6])  # while learning, taking statistics, measuring
def test_stopping_and_going_on_gives_the_same_bits(
    voc: DataConfig, whole: Measured, tmp_path: Path, steps: int
) -> None:
    with pytest.raises(Stopped):
        measured(voc, C4, stop_after(steps, tmp_path))
    assert (tmp_path / STATE_FOLDER).is_dir()
    assert measured(voc, C4, Work(tmp_path)) == whole
    assert whole.metrics.keys() == {"ap50", "ap", "ap75", "ap50_area"}


@pytest.mark.slow
def test_a_pyramid_with_masks_goes_on_to_the_same_bits(coco: DataConfig, tmp_path: Path) -> None:
    whole = measured(coco, FPN)
    with pytest.raises(Stopped):
        measured(coco, FPN, stop_after(2, tmp_path))
    assert measured(coco, FPN, Work(tmp_path)) == whole


def test_boxes_and_masks_are_measured_and_shown(coco: DataConfig) -> None:
    found = measured(coco, FPN)
    assert {"ap_box", "ap50_box", "ap_mask", "ap50_mask"} <= found.metrics.keys()
    assert set(found.details["classes"]) <= {"red", "green", "blue"}
    for one in found.details["pictures"]:
        for part in ("found", "true"):
            with Image.open(io.BytesIO(base64.b64decode(one[part]["jpeg"]))) as image:
                assert image.size == (one["width"], one["height"])
        assert len(one["true"]["objects"]) in (1, 2)


def _two(voc: DataConfig, coco: DataConfig) -> list[Measured]:
    return [measured(voc, C4), measured(coco, FPN)]


@pytest.mark.slow
def test_two_ranks_learn_the_same(voc: DataConfig, coco: DataConfig, tmp_path: Path) -> None:
    for mine, reference in zip(run_ranks(_two, 2, tmp_path, voc, coco), _two(voc, coco), strict=True):
        assert mine.metrics.keys() == reference.metrics.keys()
        assert mine.details["loss"] == pytest.approx(reference.details["loss"], rel=0.02)


def test_what_cannot_be_measured_is_said(voc: DataConfig, tmp_path: Path) -> None:
    folder = shutil.copytree(Path(voc.val).parent, tmp_path / "bare")
    for name in ("train", "val"):
        (folder / f"{name}.beton.json").unlink()
    bare = replace(voc, train=str(folder / "train.beton"), val=str(folder / "val.beton"))
    with pytest.raises(ValueError, match=r"must have manifests that list the same classes"):
        measured(bare, C4)
    with pytest.raises(ValueError, match=r"val.beton has no field masks"):
        measured(voc, FPN)
    with pytest.raises(ValueError, match="lr is 1e\\+18, allowed: a smaller rate: it diverged"):
        measured(voc, replace(C4, lr=1e18, warmup_steps=0))


@pytest.mark.slow
def test_what_is_plain_is_found(tmp_path: Path) -> None:
    data = voc_data(tmp_path, 32, 12)
    settings = replace(C4, steps=400, milestones=(300,), regions=16, warmup_steps=20, lr=0.03, precise_batches=8)
    metrics = evaluate(small_encoder(16), open_splits(data, CPU, 1), settings).metrics
    assert metrics["ap50"] > 70
