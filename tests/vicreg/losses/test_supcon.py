"""The supervised contrastive loss beside a float64 program of its own in numpy, and on several ranks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from tests.ranks import run_ranks
from vicreg.losses import supcon
from vicreg.losses.supcon import supcon_cost, supcon_loss
from vicreg.ranks import distributed

Array = NDArray[np.float64]
LABELS = np.array([0, 1, 0, 2, 1, 0, 2, 2])


def _rows() -> Array:
    rows = np.random.default_rng(3).normal(size=(len(LABELS), 6))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _slow_loss(z: Array, labels: NDArray[np.int64], temperature: float) -> float:
    """Equation 2 of the paper, row by row."""
    loss = 0.0
    for i in range(len(z)):
        others = [j for j in range(len(z)) if j != i]
        positives = [j for j in others if labels[j] == labels[i]]
        denominator = sum(np.exp(z[i] @ z[j] / temperature) for j in others)
        loss -= sum(np.log(np.exp(z[i] @ z[p] / temperature) / denominator) for p in positives) / len(positives)
    return loss / len(z)


def _slow_gradient(z: Array, labels: NDArray[np.int64], temperature: float) -> Array:
    """By central differences, entry by entry."""
    gradient, step = np.zeros_like(z), 1e-5
    for place in np.ndindex(*z.shape):
        ahead, behind = z.copy(), z.copy()
        ahead[place] += step
        behind[place] -= step
        gradient[place] = (_slow_loss(ahead, labels, temperature) - _slow_loss(behind, labels, temperature)) / 2 / step
    return gradient


@pytest.mark.parametrize("entries_at_a_time", [24, 1 << 22])
def test_value_and_gradient_equal_the_slow_program(monkeypatch: pytest.MonkeyPatch, entries_at_a_time: int) -> None:
    monkeypatch.setattr(supcon, "block_of", lambda side: max(1, entries_at_a_time // side))
    rows = _rows()
    z = torch.tensor(rows, requires_grad=True)
    loss = supcon_loss(z, torch.tensor(LABELS), 0.2)
    (3 * loss).backward()
    assert loss.item() == pytest.approx(_slow_loss(rows, LABELS, 0.2), rel=1e-12)
    assert z.grad is not None
    np.testing.assert_allclose(z.grad.numpy(), 3 * _slow_gradient(rows, LABELS, 0.2), rtol=1e-6, atol=1e-9)


def test_without_other_images_of_a_class_it_is_simclrs() -> None:
    """Each image a class of its own: cross-entropy over all other rows, as NT-Xent has it."""
    z = torch.tensor(_rows())
    similarities = (z @ z.T / 0.5).fill_diagonal_(-torch.inf)
    expected = torch.nn.functional.cross_entropy(similarities, torch.tensor([4, 5, 6, 7, 0, 1, 2, 3]))
    torch.testing.assert_close(supcon_loss(z, torch.arange(4).repeat(2), 0.5), expected, rtol=1e-12, atol=0)


def test_an_own_row_counts_neither_for_nor_against_itself() -> None:
    z = torch.tensor(_rows())
    z[2] = z[0]  # a twin counts, at whatever place
    assert supcon_loss(z, torch.tensor(LABELS), 0.2).item() == pytest.approx(_slow_loss(z.numpy(), LABELS, 0.2))


def test_half_precision_is_summed_in_float32() -> None:
    z = torch.tensor(_rows()).to(torch.bfloat16)
    expected = supcon_loss(z.float(), torch.tensor(LABELS), 0.2)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(supcon_loss(z, torch.tensor(LABELS), 0.2), expected)


def _on_rank() -> tuple[float, Tensor]:
    share = len(LABELS) // distributed.world_size()
    own = slice(distributed.rank() * share, (distributed.rank() + 1) * share)
    z = torch.tensor(_rows()[own], requires_grad=True)
    loss = supcon_loss(z, torch.tensor(LABELS[own]), 0.2)
    loss.backward()
    assert z.grad is not None
    return loss.item(), distributed.gather_rows(z.grad)


@pytest.mark.parametrize("num_ranks", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_ranks_give_value_and_gradient_of_the_whole_batch(tmp_path: Path, num_ranks: int) -> None:
    value, gradient = run_ranks(_on_rank, num_ranks, tmp_path)
    alone, expected = _on_rank()
    assert value == pytest.approx(alone, rel=1e-12)
    torch.testing.assert_close(gradient, expected, rtol=1e-10, atol=1e-14)


def test_no_matrix_of_all_rows_is_kept() -> None:
    assert supcon_cost(16384, 128, 1, 4).memory_bytes < 16384**2
