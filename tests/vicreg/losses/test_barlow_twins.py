"""Barlow Twins' loss beside a float64 program of its own in numpy, with C written out, and on several ranks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from tests.ranks import run_ranks
from vicreg.losses.barlow_twins import EPSILON, barlow_twins_loss
from vicreg.losses.correlation import FORMS
from vicreg.losses.forms import correlation_costs
from vicreg.losses.settings import BarlowTwinsLossConfig as LossConfig
from vicreg.ranks import distributed

SHAPES = [(16, 5), (7, 24), (12, 12)]
Array = NDArray[np.float64]


def _embeddings(rows: int, dims: int) -> tuple[Array, Array]:
    rng = np.random.default_rng(rows * 100 + dims)
    a = rng.normal(size=(rows, dims)) * rng.uniform(0.2, 3, dims) + rng.normal(size=dims)
    return a, 0.6 * a + rng.normal(size=(rows, dims))


def _slow_loss(a: Array, b: Array, weight: float, scale: float) -> dict[str, float]:
    """Equations 1 and 2 of the paper, entry by entry."""
    rows, dims = a.shape
    units = [(z - z.mean(0)) / np.sqrt(z.var(0) + EPSILON) for z in (a, b)]
    on = off = 0.0
    for i in range(dims):
        for j in range(dims):
            entry = float(np.dot(units[0][:, i], units[1][:, j])) / rows
            if i == j:
                on += (1 - entry) ** 2
            else:
                off += entry**2
    return {"loss": scale * (on + weight * off), "on_diagonal": on, "off_diagonal": off}


def _slow_gradient(a: Array, b: Array, weight: float, scale: float) -> tuple[Array, Array]:
    """Through C, then through the standardisation with its Jacobian of one column written out."""
    rows, dims = a.shape
    stds = [np.sqrt(z.var(0) + EPSILON) for z in (a, b)]
    units = [(z - z.mean(0)) / std for z, std in zip((a, b), stds, strict=True)]
    c = units[0].T @ units[1] / rows
    of_c = 2 * weight * c
    np.fill_diagonal(of_c, -2 * (1 - np.diag(c)))
    of_units = (units[1] @ of_c.T / rows, units[0] @ of_c / rows)
    found = []
    for unit, std, grad in zip(units, stds, of_units, strict=True):
        out = np.empty_like(grad)
        for i in range(dims):
            u = unit[:, i]
            jacobian = (np.eye(rows) - 1 / rows - np.outer(u, u) / rows) / std[i]
            out[:, i] = jacobian @ grad[:, i]
        found.append(scale * out)
    return found[0], found[1]


@pytest.mark.parametrize(("rows", "dims"), SHAPES)
@pytest.mark.parametrize("form", FORMS)
def test_value_and_gradient_equal_the_slow_program(rows: int, dims: int, form: Any) -> None:
    config = LossConfig(redundancy_weight=0.03, loss_scale=0.25, form=form)
    arrays = _embeddings(rows, dims)
    a, b = (torch.tensor(z, requires_grad=True) for z in arrays)
    terms = barlow_twins_loss(a, b, config)
    (3 * terms["loss"]).backward()
    for name, value in _slow_loss(*arrays, 0.03, 0.25).items():
        assert terms[name].item() == pytest.approx(value, rel=1e-10), name
    for z, expected in zip((a, b), _slow_gradient(*arrays, 0.03, 0.25), strict=True):
        assert z.grad is not None
        np.testing.assert_allclose(z.grad.numpy(), 3 * expected, rtol=1e-9, atol=1e-13)


def test_the_slow_gradient_is_the_slow_losss() -> None:
    a, b = _embeddings(9, 4)
    slow, step = _slow_gradient(a, b, 0.02, 1.0), 1e-6
    rng = np.random.default_rng(1)
    to_a, to_b = rng.normal(size=a.shape), rng.normal(size=b.shape)
    ahead, behind = (_slow_loss(a + h * to_a, b + h * to_b, 0.02, 1.0)["loss"] for h in (step, -step))
    assert (ahead - behind) / (2 * step) == pytest.approx((slow[0] * to_a).sum() + (slow[1] * to_b).sum(), rel=1e-6)


def test_it_is_the_official_formula() -> None:
    """As the official program has it, on one rank: an affine-free batch norm, C, its diagonal and the rest."""
    a, b = (torch.tensor(z) for z in _embeddings(32, 10))
    norm = torch.nn.BatchNorm1d(10, affine=False).double()
    c = (norm(a).T @ norm(b)) / len(a)
    on_diagonal = torch.diagonal(c).add(-1).pow(2).sum()
    off_diagonal = c.pow(2).sum() - torch.diagonal(c).pow(2).sum()
    ours = barlow_twins_loss(a, b, LossConfig(loss_scale=1.0))["loss"]
    torch.testing.assert_close(ours, on_diagonal + 0.0051 * off_diagonal, rtol=1e-10, atol=0)


def test_half_precision_embeddings_are_summed_in_float32() -> None:
    a, b = (torch.tensor(z).to(torch.bfloat16) for z in _embeddings(16, 40))
    expected = barlow_twins_loss(a.float(), b.float(), LossConfig())["loss"]
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(barlow_twins_loss(a, b, LossConfig())["loss"], expected)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match=r"shapes \(4, 3\) and \(4, 2\)"):
        barlow_twins_loss(torch.zeros(4, 3), torch.zeros(4, 2), LossConfig())
    with pytest.raises(ValueError, match="1 row, allowed: 2 or more"):
        barlow_twins_loss(torch.zeros(1, 3), torch.zeros(1, 3), LossConfig())


def _on_rank(rows: int, dims: int, form: Any) -> tuple[dict[str, float], Tensor, Tensor]:
    share = rows // distributed.world_size()
    own = slice(distributed.rank() * share, (distributed.rank() + 1) * share)
    a, b = (torch.tensor(z[own], requires_grad=True) for z in _embeddings(rows, dims))
    terms = barlow_twins_loss(a, b, LossConfig(form=form))
    terms["loss"].backward()
    assert a.grad is not None
    assert b.grad is not None
    values = {name: value.item() for name, value in terms.items()}
    return values, distributed.gather_rows(a.grad), distributed.gather_rows(b.grad)


def _all_forms(sizes: list[tuple[int, int]]) -> dict[tuple[int, int, str], Any]:
    return {(rows, dims, form): _on_rank(rows, dims, form) for rows, dims in sizes for form in FORMS}


@pytest.mark.parametrize("num_ranks", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_ranks_give_value_and_gradient_of_the_whole_batch(tmp_path: Path, num_ranks: int) -> None:
    sizes = [(16, 40), (40, 16), (8, 3)]
    for (rows, dims, form), (values, *gradients) in run_ranks(_all_forms, num_ranks, tmp_path, sizes).items():
        alone, *expected = _on_rank(rows, dims, "dimensions")
        assert values == pytest.approx(alone, rel=1e-10), form
        for mine, theirs in zip(gradients, expected, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-14)


def test_no_large_matrix_is_needed_where_the_batch_is_smaller() -> None:
    costs = correlation_costs(2048, 8192, 32)
    assert costs["samples"].flops < costs["dimensions"].flops
    assert correlation_costs(64, 4096, 1)["samples"].flops == 2 * 4 * 64 * 64 * 4096
