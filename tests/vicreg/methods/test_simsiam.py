"""SimSiam: what is stopped, what stays fixed, and its collapse, from which VICReg's variance term keeps it."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from torch import nn

from tests.vicreg.methods.small_steps import NUM_STEPS, learner_of, small, take, views
from vicreg.method import Inputs, Progress
from vicreg.networks.simsiam import SimSiam


def test_the_loss_is_half_of_both_directions_cosines() -> None:
    method = learner_of(small("simsiam", "simsiam")).method
    assert isinstance(method, SimSiam)
    labels = torch.zeros(8, dtype=torch.int64)
    loss = method(Inputs(views(0), labels, labels), Progress(0, 10, 5))["loss"].item()
    with torch.no_grad():
        z = [method.expander(method.encoder(view)).numpy() for view in views(0)]
        p = [method.predictor(torch.tensor(each)).numpy() for each in z]
    cosines = [
        np.dot(p[one][row], z[1 - one][row]) / np.linalg.norm(p[one][row]) / np.linalg.norm(z[1 - one][row])
        for one in range(2)
        for row in range(8)
    ]
    assert loss == pytest.approx(-np.mean(cosines), rel=1e-10)


def test_the_predictors_rate_stays_and_all_decays() -> None:
    learner = learner_of(small("simsiam", "simsiam"))
    take(learner, NUM_STEPS - 1)
    learned, predicting = learner.optimizer.param_groups
    peak = 0.05 * 8 / 256
    assert predicting["lr"] == pytest.approx(peak)
    assert learned["lr"] == pytest.approx(peak * (1 + np.cos(np.pi * 0.9)) / 2)
    assert learned["weight_decay"] == predicting["weight_decay"] == 1e-4
    method = learner.method
    assert isinstance(method, SimSiam)
    assert {id(p) for p in predicting["params"]} == {id(p) for p in method.predictor.parameters()}
    last = method.expander[-1]
    assert isinstance(last, nn.BatchNorm1d)
    assert not list(last.parameters())
    said = method.predictor[-1]
    assert isinstance(said, nn.Linear)  # no batch norm behind it, so it has a bias
    assert said.bias is not None


@pytest.mark.parametrize(("weight", "collapses"), [(0.0, True), (1.0, False)])
def test_without_predictor_and_batch_norm_it_collapses_but_for_the_variance_term(
    weight: float, collapses: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Table 4 of VICReg's paper in small: the alarm is raised, and is not where the term has a weight."""
    adamw = {"name": "adamw", "base_lr": 0.01}
    config = small("simsiam-no-predictor", "simsiam", variance_weight=weight, optimizer=adamw)
    learner = learner_of(config)
    with caplog.at_level(logging.WARNING):
        spread = [take(learner, step, rows=16, num_steps=1000)["embedding_std"] for step in range(25)]
    assert ("the embeddings have collapsed" in caplog.text) is collapses
    assert (spread[-1] < 0.05) is collapses
