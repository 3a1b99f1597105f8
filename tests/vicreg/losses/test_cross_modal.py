"""Losses across modalities beside float64 loops of their own in numpy, pair by pair, and on two ranks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from tests.ranks import run_ranks
from vicreg.losses.barlow_twins import barlow_twins_loss
from vicreg.losses.cross_modal import both_ways_loss, hardest_negative_loss
from vicreg.losses.settings import BarlowTwinsLossConfig as BarlowConfig
from vicreg.losses.settings import VicregLossConfig as LossConfig
from vicreg.losses.vicreg import vicreg_loss
from vicreg.ranks import distributed

Array = NDArray[np.float64]
ROWS, DIMS, MARGIN, TEMPERATURE = 8, 5, 0.2, 0.3
UNEQUAL = LossConfig(10.0, 7.0, 2.0, variance_weight_b=3.0, covariance_weight_b=0.5)


def _embeddings() -> tuple[Array, Array]:
    rng = np.random.default_rng(4)
    a = rng.normal(size=(ROWS, DIMS)) * rng.uniform(0.3, 2, (ROWS, 1))
    return a, 0.6 * a + 0.5 * rng.normal(size=(ROWS, DIMS))


def _cosine(one: Array, other: Array) -> float:
    return float(np.dot(one, other) / np.sqrt(np.dot(one, one) * np.dot(other, other)))


def _slow_vse_pp(a: Array, b: Array) -> float:
    loss = 0.0
    for i in range(len(a)):
        own = _cosine(a[i], b[i])
        of_image, of_caption = 0.0, 0.0
        for j in range(len(a)):
            if j != i:
                of_image = max(of_image, MARGIN + _cosine(a[i], b[j]) - own)
                of_caption = max(of_caption, MARGIN + _cosine(a[j], b[i]) - own)
        loss += of_image + of_caption
    return loss


def _slow_clip(a: Array, b: Array) -> float:
    loss = 0.0
    for i in range(len(a)):
        forth = sum(np.exp(_cosine(a[i], other) / TEMPERATURE) for other in b)
        back = sum(np.exp(_cosine(other, b[i]) / TEMPERATURE) for other in a)
        own = _cosine(a[i], b[i]) / TEMPERATURE
        loss += (np.log(forth) - own + np.log(back) - own) / 2
    return float(loss / len(a))


def _slow_vicreg(a: Array, b: Array) -> float:
    loss = UNEQUAL.invariance_weight * float(((a - b) ** 2).sum()) / a.size
    weights = ((a, 7.0, 2.0), (b, 3.0, 0.5))
    for z, of_variance, of_covariance in weights:
        for i in range(DIMS):
            for j in range(DIMS):
                entry = float(((z[:, i] - z[:, i].mean()) * (z[:, j] - z[:, j].mean())).sum()) / (len(z) - 1)
                if i == j:
                    loss += of_variance * max(0.0, 1 - np.sqrt(entry + 1e-4)) / DIMS / 2
                else:
                    loss += of_covariance * entry**2 / DIMS
    return loss


def _slow_barlow(a: Array, b: Array) -> float:
    config, loss = BarlowConfig(), 0.0
    for i in range(DIMS):
        for j in range(DIMS):
            x, y = (a[:, i] - a[:, i].mean()), (b[:, j] - b[:, j].mean())
            entry = float((x * y).mean() / np.sqrt(((x**2).mean() + 1e-5) * ((y**2).mean() + 1e-5)))
            loss += (1 - entry) ** 2 if i == j else config.redundancy_weight * entry**2
    return config.loss_scale * loss


LOSSES: dict[str, tuple[Callable[[Tensor, Tensor], dict[str, Tensor]], Callable[[Array, Array], float]]] = {
    "vse_pp": (lambda a, b: hardest_negative_loss(a, b, MARGIN), _slow_vse_pp),
    "clip": (lambda a, b: both_ways_loss(a, b, TEMPERATURE), _slow_clip),
    "vicreg": (lambda a, b: vicreg_loss(a, b, UNEQUAL), _slow_vicreg),
    "barlow_twins": (lambda a, b: barlow_twins_loss(a, b, BarlowConfig()), _slow_barlow),
}


def _value_and_gradient(name: str) -> tuple[float, Tensor]:
    """Of the global batch, the gradient (2, rows, D) put together from the ranks' own rows."""
    count = ROWS // distributed.world_size()
    mine = slice(distributed.rank() * count, (distributed.rank() + 1) * count)
    a, b = (torch.from_numpy(rows[mine]).requires_grad_() for rows in _embeddings())
    loss = LOSSES[name][0](a, b)["loss"]
    loss.backward()
    assert a.grad is not None
    assert b.grad is not None
    return loss.item(), torch.stack([distributed.gather_rows(each.grad) for each in (a, b) if each.grad is not None])


def _on_rank() -> dict[str, tuple[float, Tensor]]:
    return {name: _value_and_gradient(name) for name in LOSSES}


@pytest.mark.parametrize("name", LOSSES)
def test_value_and_gradient_are_those_of_a_loop_over_pairs(name: str) -> None:
    (a, b), slow = _embeddings(), LOSSES[name][1]
    value, gradient = _value_and_gradient(name)
    assert value == pytest.approx(slow(a, b), rel=1e-12)
    step = 1e-6
    for branch, row, column in ((0, 0, 0), (0, 5, 3), (1, 2, 1), (1, 7, 4)):
        moved = []
        for towards in (step, -step):
            rows = [a.copy(), b.copy()]
            rows[branch][row, column] += towards
            moved.append(slow(*rows))
        assert gradient[branch, row, column].item() == pytest.approx((moved[0] - moved[1]) / (2 * step), rel=1e-5)


def test_two_ranks_give_the_same(tmp_path: Path) -> None:
    together, alone = run_ranks(_on_rank, 2, tmp_path), _on_rank()
    for name, (value, gradient) in alone.items():
        assert together[name][0] == pytest.approx(value, rel=1e-12), name
        torch.testing.assert_close(together[name][1], gradient, rtol=1e-10, atol=1e-14)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match=r"embeddings have shapes \(4, 3\) and \(4, 2\)"):
        hardest_negative_loss(torch.zeros(4, 3), torch.zeros(4, 2), MARGIN)
    with pytest.raises(ValueError, match="the global batch has 1 row, allowed: 2 or more"):
        both_ways_loss(torch.zeros(1, 3), torch.zeros(1, 3), TEMPERATURE)
