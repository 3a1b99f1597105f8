"""SimCLR: both directions are added, as in the official program; its PyTorch versions take their mean."""

from __future__ import annotations

import pytest
import torch

from tests.vicreg.methods.small_steps import BATCH, learner_of, small, views
from vicreg.method import Inputs, Progress


def test_both_directions_are_added_or_averaged() -> None:
    labels = torch.zeros(BATCH, dtype=torch.int64)
    losses = {
        directions: learner_of(small("simclr", "simclr", directions=directions))
        .method(Inputs(views(0), labels, labels), Progress(0, 10, 5))["loss"]
        .item()
        for directions in ("sum", "mean")
    }
    assert losses["sum"] == pytest.approx(2 * losses["mean"], rel=1e-12)
