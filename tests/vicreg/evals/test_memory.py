"""What a detector's or a linear head's training will hold, as estimated, is what the profiler sees it hold."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.peak_memory import peak_bytes as measured_bytes
from tests.vicreg.detection.small_detection import C4, FPN, coco_data, voc_data
from tests.vicreg.evals.test_linear_segmentation import SMALL, voc12_data
from vicreg.config import ModelConfig
from vicreg.config_json import to_json
from vicreg.detection.settings import Settings
from vicreg.evals.detector_training import DetectorTraining
from vicreg.evals.features import open_splits
from vicreg.evals.linear_segmentation import HeadTraining
from vicreg.evals.memory import peak_bytes
from vicreg.model import encoder_by_config

CPU = torch.device("cpu")
MODEL = ModelConfig("resnet10-narrow", small_images=False)
LARGE = {"short_sides": (160, 160, 1), "longest_side": 200, "regions": 64}
MANY = {"proposals_before": (1000, 100), "proposals_after": (500, 100)}
WIDE = replace(FPN, pyramid=64, hidden=256)


def _held_bytes(training: DetectorTraining | HeadTraining) -> int:
    """What the second step holds at the most, and with it what was there before."""
    with closing(training.batches(0, 2)) as batches:
        first, second = batches
    training.learn(first)
    learned = sum(p.nbytes for p in training.model.parameters() if p.requires_grad)
    kept = sum(t.nbytes for one in training.optimizer.state.values() for t in one.values() if t.ndim)
    there = sum(t.nbytes for t in [*training.model.parameters(), *training.model.buffers()]) + learned + kept
    return there + measured_bytes(lambda: training.learn(second))


@pytest.mark.parametrize(
    ("settings", "within"),
    [
        pytest.param(C4, 0.15, id="c4"),  # convolutions take a tenth inside themselves here
        pytest.param(replace(WIDE, masks=False), 0.1, id="fpn"),
        pytest.param(WIDE, None, id="masks"),  # at the most: as many objects as may be among the regions
    ],
)
def test_a_detector_holds_what_is_expected(settings: Settings, within: float | None, tmp_path: Path) -> None:
    data = (coco_data if settings.masks else voc_data)(tmp_path)
    settings = replace(settings, **LARGE, **MANY)
    real = _held_bytes(DetectorTraining(encoder_by_config(MODEL), open_splits(data, CPU, 1), settings))
    said = peak_bytes("detection", to_json(settings), MODEL, Path(data.train), Path(data.val), 1, False)
    if within is None:
        assert real < said < 3 * real
    else:
        assert said == pytest.approx(real, rel=within)


def test_a_linear_head_holds_what_is_expected(tmp_path: Path) -> None:
    data, config = voc12_data(tmp_path), replace(SMALL, crop=128)
    real = _held_bytes(HeadTraining(encoder_by_config(MODEL), open_splits(data, CPU, 1), config))
    said = peak_bytes("linear_segmentation", to_json(config), MODEL, Path(data.train), Path(data.val), 1, False)
    assert said == pytest.approx(real, rel=0.1)
    large = replace(config, crop=2048, batch=1)  # a validation image is seen whole, and its scores are as large
    assert (
        peak_bytes("linear_segmentation", to_json(large), MODEL, Path(data.train), Path(data.val), 1, False) > 9 * said
    )


def test_more_ranks_and_half_precision_hold_less(tmp_path: Path) -> None:
    data = voc_data(tmp_path)
    settings = to_json(replace(C4, **LARGE))

    def said(ranks: int, on_gpu: bool) -> int:
        return peak_bytes("detection", settings, MODEL, Path(data.train), Path(data.val), ranks, on_gpu)

    assert said(4, False) < said(2, False) < said(1, False)
    assert said(1, True) < 0.8 * said(1, False)
