"""Predictions told from everybody's patches beside a float64 program of its own in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from vicreg.losses import prediction
from vicreg.losses.prediction import prediction_loss
from vicreg.ranks import distributed

Array = NDArray[np.float64]
SCALE = 0.7
PATCHES, PREDICTIONS, DIMS = 8, 12, 5
ANSWERS = np.array([1, 0, 3, 2, 2, 1, 5, 4, 7, 6, 6, 5])
"""Of the first half of the patches for the first half of the predictions, as if two ranks had them."""


def _inputs() -> tuple[Array, Array]:
    rng = np.random.default_rng(11)
    return rng.normal(size=(PREDICTIONS, DIMS)), rng.normal(size=(PATCHES, DIMS))


def _slow(predicted: Array, patches: Array) -> tuple[float, Array, Array]:
    """The loss and its gradients, one prediction and one candidate at a time."""
    loss, of_predicted, of_patches = 0.0, np.zeros_like(predicted), np.zeros_like(patches)
    for row, answer in zip(range(len(predicted)), ANSWERS, strict=True):
        weights = [float(np.exp(SCALE * (predicted[row] @ patch))) for patch in patches]
        loss -= float(np.log(weights[answer] / sum(weights))) / len(predicted)
        for place, weight in enumerate(weights):
            error = SCALE * (weight / sum(weights) - (place == answer)) / len(predicted)
            of_predicted[row] += error * patches[place]
            of_patches[place] += error * predicted[row]
    return loss, of_predicted, of_patches


@pytest.mark.parametrize("entries_at_a_time", [24, 1 << 22])
def test_value_and_gradient_equal_the_slow_program(monkeypatch: pytest.MonkeyPatch, entries_at_a_time: int) -> None:
    monkeypatch.setattr(prediction, "block_of", lambda side: max(1, entries_at_a_time // side))
    arrays = _inputs()
    predicted, patches = (torch.tensor(array, requires_grad=True) for array in arrays)
    loss, right = prediction_loss(predicted, patches, torch.tensor(ANSWERS), SCALE)
    (2 * loss).backward()
    expected, *gradients = _slow(*arrays)
    assert loss.item() == pytest.approx(expected, rel=1e-12)
    assert right.item() == pytest.approx(float(np.mean((arrays[0] @ arrays[1].T).argmax(1) == ANSWERS)))
    for tensor, gradient in zip((predicted, patches), gradients, strict=True):
        assert tensor.grad is not None
        np.testing.assert_allclose(tensor.grad.numpy(), 2 * gradient, rtol=1e-9, atol=1e-14)


def test_it_is_the_cross_entropy() -> None:
    predicted, patches = (torch.tensor(array) for array in _inputs())
    expected = torch.nn.functional.cross_entropy(predicted @ patches.T * SCALE, torch.tensor(ANSWERS))
    torch.testing.assert_close(prediction_loss(predicted, patches, torch.tensor(ANSWERS), SCALE)[0], expected)


def on_rank() -> tuple[float, Tensor, Tensor]:
    """Value and gradients of the global batch, of which this rank has its part."""
    ranks, rank = distributed.world_size(), distributed.rank()
    own = [array[len(array) // ranks * rank :][: len(array) // ranks] for array in (*_inputs(), ANSWERS)]
    predicted, patches = (torch.tensor(array, requires_grad=True) for array in own[:2])
    loss, _ = prediction_loss(predicted, patches, torch.tensor(own[2] - PATCHES // ranks * rank), SCALE)
    loss.backward()
    assert predicted.grad is not None
    assert patches.grad is not None
    return loss.item(), distributed.gather_rows(predicted.grad), distributed.gather_rows(patches.grad)
