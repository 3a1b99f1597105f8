"""The loss against the official program's numbers, a slow loop, finite differences, and one process."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.ranks import run_ranks
from vicreg.losses import forms as loss_forms
from vicreg.losses.covariance import FORMS
from vicreg.losses.forms import Speeds, cheapest, covariance_costs
from vicreg.losses.settings import VicregLossConfig as LossConfig
from vicreg.losses.vicreg import vicreg_loss
from vicreg.ranks import distributed

GOLDEN = np.load(Path(__file__).parents[2] / "golden" / "vicreg_loss.npz")
CASES = sorted({name.split("_")[0] for name in GOLDEN.files})
TERMS = {"total": "loss", "inv": "invariance", "var": "variance", "cov": "covariance"}
ONLY = {
    "total": LossConfig(),
    "inv": LossConfig(1.0, 0.0, 0.0),
    "var": LossConfig(0.0, 1.0, 0.0),
    "cov": LossConfig(0.0, 0.0, 1.0),
}


def _embeddings(rows: int, dims: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(rows, dims, generator=generator, dtype=torch.float64)
    return a, 0.7 * a + 0.6 * torch.randn(rows, dims, generator=generator, dtype=torch.float64)


def _slow(a: Tensor, b: Tensor, reduction: str) -> Tensor:
    """The paper's equations, term by term, with loops."""
    rows, dims = a.shape
    invariance = sum(((a[i] - b[i]) ** 2).sum() for i in range(rows)) / (rows * dims)
    variances, covariances = [], []
    for z in (a, b):
        centred = z - z.mean(0)
        covariance = centred.T @ centred / (rows - 1)
        hinge = sum(torch.relu(1 - (covariance[j, j] + 1e-4).sqrt()) for j in range(dims)) / dims
        off = sum((covariance[i, j] ** 2 for i in range(dims) for j in range(dims) if i != j), torch.zeros(()))
        variances.append(hinge)
        covariances.append(off / dims)
    variance = sum(variances) / (2 if reduction == "mean" else 1)
    return 25 * invariance + 25 * variance + sum(covariances)


@pytest.fixture(params=["whole", "in blocks"])
def _blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small matrices are made at once, large ones in blocks of rows; here also small ones, of a row or two each."""
    if request.param == "in blocks":
        monkeypatch.setattr(loss_forms, "BLOCK_ENTRIES", 30)


@pytest.mark.usefixtures("_blocks")
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("term", TERMS)
@pytest.mark.parametrize("form", FORMS)
def test_values_and_gradients_equal_the_official_program(case: str, term: str, form: str) -> None:
    a, b = (torch.from_numpy(GOLDEN[f"{case}_{name}"]).requires_grad_() for name in "xy")
    result = vicreg_loss(a, b, dataclasses.replace(ONLY[term], form=form))
    np.testing.assert_allclose(result[TERMS[term]].item(), GOLDEN[f"{case}_{term}"], rtol=1e-9, atol=1e-12)
    result["loss"].backward()
    np.testing.assert_allclose(a.grad, GOLDEN[f"{case}_{term}_gx"], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(b.grad, GOLDEN[f"{case}_{term}_gy"], rtol=1e-9, atol=1e-12)


@settings(max_examples=30, deadline=None)
@given(rows=st.integers(2, 9), dims=st.integers(1, 9), seed=st.integers(0, 1000), mean=st.booleans())
def test_equals_the_equations_written_as_loops(rows: int, dims: int, seed: int, mean: bool) -> None:
    reduction = "mean" if mean else "sum"
    a, b = (z.requires_grad_() for z in _embeddings(rows, dims, seed))
    ours = vicreg_loss(a, b, LossConfig(variance_reduction=reduction))["loss"]
    slow = _slow(a, b, reduction)
    torch.testing.assert_close(ours, slow, rtol=1e-9, atol=1e-12)
    for mine, theirs in zip(torch.autograd.grad(ours, (a, b)), torch.autograd.grad(slow, (a, b)), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-8, atol=1e-12)


def test_paper_sum_doubles_the_variance_term() -> None:
    a, b = _embeddings(8, 5)
    mean, total = (vicreg_loss(a / 3, b / 3, LossConfig(variance_reduction=r)) for r in ("mean", "sum"))
    torch.testing.assert_close(2 * mean["variance"], total["variance"])


def test_gradient_passes_finite_differences() -> None:
    (a, b), (towards_a, towards_b) = _embeddings(6, 4), _embeddings(6, 4, seed=1)
    x, y = (z.clone().requires_grad_() for z in (a, b))
    vicreg_loss(x, y, LossConfig())["loss"].backward()
    assert x.grad is not None
    assert y.grad is not None
    slope = (x.grad * towards_a).sum() + (y.grad * towards_b).sum()
    ahead, behind = (
        vicreg_loss(a + h * towards_a, b + h * towards_b, LossConfig())["loss"].item() for h in (1e-6, -1e-6)
    )
    assert slope.item() == pytest.approx((ahead - behind) / 2e-6, rel=1e-7)


def test_a_scaled_loss_has_a_scaled_gradient_once() -> None:
    a, b = (z.requires_grad_() for z in _embeddings(6, 4))
    plain = torch.autograd.grad(vicreg_loss(a, b, LossConfig())["loss"], (a, b))
    loss = 8 * vicreg_loss(a, b, LossConfig())["loss"]
    for scaled, expected in zip(torch.autograd.grad(loss, (a, b), retain_graph=True), plain, strict=True):
        assert torch.equal(scaled, 8 * expected)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(loss, (a, b))


@pytest.mark.usefixtures("_blocks")
@pytest.mark.parametrize(("rows", "dims"), [(16, 48), (48, 16), (7, 7)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_all_forms_agree(rows: int, dims: int, dtype: torch.dtype) -> None:
    z = _embeddings(rows, dims)[0].to(dtype)
    centred = z - z.mean(0)
    variance = centred.square().sum(0) / (rows - 1)
    expected = centred @ (centred.T @ centred / (rows - 1)).fill_diagonal_(0)
    close = {"rtol": 1e-11, "atol": 1e-12} if dtype == torch.float64 else {"rtol": 1e-4, "atol": 1e-4}
    for form in FORMS.values():
        grad = torch.ones_like(z)
        squares = form(centred, variance, rows, grad, 0.5)
        assert squares.item() == pytest.approx(torch.cov(z.T).square().sum().item(), rel=close["rtol"])
        torch.testing.assert_close(grad, 1 + 0.5 * expected, **close)


def _slow_rank(a: Tensor, b: Tensor) -> float:
    """Effective rank from the eigenvalues of each branch's covariance."""
    spectra = [torch.linalg.eigvalsh(torch.atleast_2d(torch.cov(z.detach().T))) for z in (a, b)]
    return sum(float(values.sum() ** 2 / values.square().sum()) for values in spectra) / 2


@settings(max_examples=30, deadline=None)
@given(rows=st.integers(2, 12), dims=st.integers(1, 12), seed=st.integers(0, 1000))
def test_effective_rank_is_that_of_the_eigenvalues(rows: int, dims: int, seed: int) -> None:
    a, b = _embeddings(rows, dims, seed)
    rank = vicreg_loss(a, b, LossConfig())["effective_rank"].item()
    assert rank == pytest.approx(_slow_rank(a, b), rel=1e-9)
    assert 1 - 1e-9 <= rank <= min(rows - 1, dims) + 1e-9


@pytest.mark.parametrize(("rows", "dims"), [(6, 16), (64, 16)])
def test_effective_rank_counts_directions_of_equal_variance(rows: int, dims: int) -> None:
    axes = torch.eye(dims, dtype=torch.float64)[:2].repeat(rows // 2, 1)
    signs = torch.tensor([1.0, 1.0, -1.0, -1.0], dtype=torch.float64).repeat(rows)[: rows // 4 * 4, None]
    two = axes[: rows // 4 * 4] * signs
    assert vicreg_loss(two, two, LossConfig())["effective_rank"].item() == pytest.approx(2)
    line = torch.outer(torch.arange(rows, dtype=torch.float64), torch.arange(1, dims + 1, dtype=torch.float64))
    assert vicreg_loss(line, line, LossConfig())["effective_rank"].item() == pytest.approx(1)
    assert vicreg_loss(line, two[:1].expand(rows, -1), LossConfig())["effective_rank"].item() == pytest.approx(0.5)


def test_half_precision_embeddings_are_measured_in_float32() -> None:
    a, b = (z.to(torch.bfloat16) for z in _embeddings(64, 128))
    with torch.autocast("cpu", torch.bfloat16):
        half = vicreg_loss(a, b, LossConfig())
    assert half["loss"].dtype == torch.float32
    torch.testing.assert_close(half["loss"], vicreg_loss(a.float(), b.float(), LossConfig())["loss"])


def test_collapsed_embeddings_have_a_finite_gradient() -> None:
    a = torch.zeros(8, 4, requires_grad=True)
    result = vicreg_loss(a, a + 0.0, LossConfig())
    result["loss"].backward()
    assert a.grad is not None
    assert torch.isfinite(a.grad).all()
    assert result["embedding_std"].item() == pytest.approx(0.01)  # the root of epsilon
    assert result["effective_rank"].item() == 0


def test_refuses_shapes_that_do_not_match_and_single_rows() -> None:
    with pytest.raises(ValueError, match="twice the same n x D"):
        vicreg_loss(torch.zeros(4, 3), torch.zeros(4, 2), LossConfig())
    with pytest.raises(ValueError, match="2 or more"):
        vicreg_loss(torch.zeros(1, 3), torch.zeros(1, 3), LossConfig())


def _loss_on_rank(rows: int, dims: int, form: str) -> tuple[dict[str, float], Tensor, Tensor]:
    share = rows // distributed.world_size()
    start = distributed.rank() * share
    a, b = (z[start : start + share].clone().requires_grad_() for z in _embeddings(rows, dims))
    terms = vicreg_loss(a, b, LossConfig(form=form))
    terms["loss"].backward()
    assert a.grad is not None
    assert b.grad is not None
    values = {name: value.item() for name, value in terms.items()}
    return values, distributed.gather_rows(a.grad), distributed.gather_rows(b.grad)


def _all_forms_on_rank(sizes: list[tuple[int, int]]) -> dict[tuple[int, int, str], Any]:
    return {(rows, dims, form): _loss_on_rank(rows, dims, form) for rows, dims in sizes for form in FORMS}


@pytest.mark.parametrize("num_ranks", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_ranks_give_value_and_gradient_of_the_whole_batch(tmp_path: Path, num_ranks: int) -> None:
    """Every form, with fewer and with more rows than columns, and columns that the ranks do not divide."""
    sizes = [(16, 40), (40, 16), (8, 3), (16, 41)]
    together = run_ranks(_all_forms_on_rank, num_ranks, tmp_path, sizes)
    for (rows, dims, form), (values, grad_a, grad_b) in together.items():
        alone = _loss_on_rank(rows, dims, "dimensions")
        assert alone[0]["effective_rank"] == pytest.approx(_slow_rank(*_embeddings(rows, dims)), rel=1e-9)
        assert values == pytest.approx(alone[0], rel=1e-11), form
        torch.testing.assert_close(grad_a, alone[1], rtol=1e-10, atol=1e-14)
        torch.testing.assert_close(grad_b, alone[2], rtol=1e-10, atol=1e-14)


FAST_NETWORK, SLOW_NETWORK = Speeds(100, 400, 1, 1000), Speeds(100, 1, 20, 1000)


@pytest.mark.parametrize(
    ("total", "dims", "ranks", "speeds", "form"),
    [
        (2048, 8192, 1, FAST_NETWORK, "samples"),  # nothing to send: a quarter of the arithmetic of D x D
        (2048, 8192, 2, SLOW_NETWORK, "samples"),  # rows are less than twice the columns and the sums of K
        (2048, 8192, 32, SLOW_NETWORK, "features"),  # half the bytes of everybody's rows
        (8192, 256, 8, SLOW_NETWORK, "dimensions"),  # D x D is small
        (64, 64, 1, FAST_NETWORK, "samples"),
    ],
)
def test_the_cheapest_form(total: int, dims: int, ranks: int, speeds: Speeds, form: str) -> None:
    assert cheapest(covariance_costs(total, dims, ranks), ranks, speeds) == form


def test_the_arithmetic_is_shared_by_the_ranks() -> None:
    alone = covariance_costs(2048, 8192, 1)
    for ranks in (2, 4, 8, 32):
        for form, cost in covariance_costs(2048, 8192, ranks).items():
            assert cost.flops == alone[form].flops / ranks
            assert alone[form].sent_bytes == 0 < cost.sent_bytes
