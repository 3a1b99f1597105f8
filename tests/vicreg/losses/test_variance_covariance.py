"""VICReg's terms beside another loss: a float64 loop in numpy, raw and normalised, and on two ranks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from tests.ranks import run_ranks
from vicreg.losses.barlow_twins import barlow_twins_loss
from vicreg.losses.settings import SpreadConfig
from vicreg.losses.variance_covariance import EPSILON, add_spread
from vicreg.methods import barlow_twins
from vicreg.networks import barlow_twins as barlow_twins_network
from vicreg.ranks import distributed

Array = NDArray[np.float64]
ROWS, DIMS = 8, 5
Of = Literal["raw", "normalised"]


def _pair() -> tuple[Array, Array]:
    rng = np.random.default_rng(3)
    a = rng.normal(size=(ROWS, DIMS)) * rng.uniform(0.2, 1.5, DIMS)
    return a, 0.5 * a + rng.normal(size=(ROWS, DIMS)) * 0.6


def _slow(a: Array, b: Array, of: Of) -> tuple[float, float]:
    """Both terms, entry by entry, added over both views."""
    target = 1.0 if of == "raw" else 1 / np.sqrt(DIMS)
    hinge = covariance = 0.0
    for given in (a, b):
        z = given if of == "raw" else given / np.linalg.norm(given, axis=1, keepdims=True)
        centred = z - z.mean(0)
        for i in range(DIMS):
            variance = np.dot(centred[:, i], centred[:, i]) / (ROWS - 1)
            hinge += max(0.0, target - np.sqrt(variance + EPSILON * target**2)) / DIMS
            for j in range(DIMS):
                if i != j:
                    covariance += (np.dot(centred[:, i], centred[:, j]) / (ROWS - 1)) ** 2 / DIMS
    return hinge, covariance


@pytest.mark.parametrize("of", ["raw", "normalised"])
def test_value_and_gradient_equal_the_slow_program(of: Of) -> None:
    config = SpreadConfig(1.0, 0.3, of)
    arrays = _pair()
    a, b = (torch.tensor(array, requires_grad=True) for array in arrays)
    terms = add_spread({"loss": 2 * a.sum()}, a, b, config)
    terms["loss"].backward()
    hinge, covariance = _slow(*arrays, of)
    assert hinge > 0.01
    assert terms["variance"].item() == pytest.approx(hinge, rel=1e-10)
    assert terms["covariance"].item() == pytest.approx(covariance, rel=1e-10)
    assert terms["loss"].item() == pytest.approx(2 * arrays[0].sum() + hinge + 0.3 * covariance, rel=1e-10)
    step = 1e-6
    for number, z in enumerate((a, b)):
        assert z.grad is not None
        for place in np.ndindex(z.shape):
            moved = [array.copy() for array in arrays], [array.copy() for array in arrays]
            moved[0][number][place] += step
            moved[1][number][place] -= step
            ahead, behind = (np.dot(_slow(*pair, of), (1.0, 0.3)) for pair in moved)
            slope = (ahead - behind) / (2 * step) + (2 if number == 0 else 0)
            assert z.grad[place].item() == pytest.approx(slope, rel=1e-5, abs=1e-8)


def test_without_weights_nothing_is_added() -> None:
    terms = {"loss": torch.tensor(1.0)}
    assert add_spread(terms, torch.zeros(4, 2), torch.zeros(4, 2), SpreadConfig()) is terms
    with pytest.raises(ValueError, match="variance_weight is -1, allowed: 0 or more"):
        SpreadConfig(variance_weight=-1)


def _on_rank(of: Of) -> tuple[float, Tensor]:
    share = ROWS // distributed.world_size()
    own = slice(distributed.rank() * share, (distributed.rank() + 1) * share)
    a, b = (torch.tensor(array[own], requires_grad=True) for array in _pair())
    loss = add_spread({"loss": torch.zeros(())}, a, b, SpreadConfig(1.0, 0.3, of))["loss"]
    (grad,) = torch.autograd.grad(loss, a)
    return loss.item(), distributed.gather_rows(grad)


def _both() -> list[tuple[float, Tensor]]:
    return [_on_rank("raw"), _on_rank("normalised")]


def test_ranks_give_value_and_gradient_of_the_whole_batch(tmp_path: Path) -> None:
    for (loss, grad), (alone, whole) in zip(run_ranks(_both, 2, tmp_path), _both(), strict=True):
        assert loss == pytest.approx(alone, rel=1e-10)
        torch.testing.assert_close(grad, whole, rtol=1e-9, atol=1e-14)


def test_beside_barlow_twins_it_is_added_and_its_cost_told() -> None:
    settings = barlow_twins.Config()
    with_term = replace(settings, variance_weight=1.0, covariance_weight=0.01)
    config = barlow_twins.RECIPES["barlow-twins"].pretrain
    alone, both = (barlow_twins_network.loss_cost(replace(config, method=each), 4, 4) for each in (settings, with_term))
    assert both.forms["samples"].flops > alone.forms["samples"].flops
    assert both.forms.keys() == alone.forms.keys()
    a, b = (torch.tensor(array) for array in _pair())
    plain = barlow_twins_loss(a, b, settings)
    hinge, covariance = _slow(*_pair(), "raw")
    terms = add_spread(plain, a, b, with_term, with_term.form)
    assert terms["loss"].item() == pytest.approx(plain["loss"].item() + hinge + 0.01 * covariance, rel=1e-10)
