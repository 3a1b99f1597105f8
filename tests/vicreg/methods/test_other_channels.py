"""Every method learns from images of five channels, or says which of its options is about colours."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import torch

from tests import five_channels
from tests.vicreg.methods.small_runs import BATCH, CAPTIONED, METHODS, small
from vicreg.data.channels import fitted_to_channels
from vicreg.data.loaders import open_views
from vicreg.method import Progress, TrainingData
from vicreg.training.learner import Learner

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def five(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with train.beton, of 36 images of five channels."""
    return five_channels.write(tmp_path_factory.mktemp("five"), 48)


@pytest.mark.parametrize("method", [method for method in METHODS if method not in CAPTIONED])
def test_a_step_on_five_channels(five: Path, method: str) -> None:
    config = small(method, five)
    if method == "cmc":
        with pytest.raises(ValueError, match="colours is 'lab', allowed: rgb: 5 channels have none"):
            fitted_to_channels(config)
        return
    config, data = fitted_to_channels(config), TrainingData(36, five_channels.CLASSES)
    if method == "cpc_v2":
        with pytest.raises(ValueError, match=r"colour_drop_p is 0\.25, allowed: 0 for images that are not RGB"):
            Learner.build(config, CPU, data)
        without = dataclasses.replace(config.method, colour_drop_p=0.0)
        config = dataclasses.replace(config, method=without)
    learner = Learner.build(config, CPU, data)
    loader = open_views(
        config.data,
        five / "train.beton",
        config.views,
        seed=0,
        global_batch=BATCH,
        rank=0,
        world_size=1,
        device=CPU,
        workers=1,
    )
    for batch in loader.batches(0):
        terms = learner.report(0, learner.step(batch, Progress(0, 1, 1), 0))
    loader.close()
    assert math.isfinite(terms["loss"])
    first = next(p for p in learner.encoder.parameters() if p.ndim == 4)
    assert first.shape[1] == 5
    assert first.grad is not None
    assert first.grad.abs().sum((0, 2, 3)).min() > 0  # of every channel
