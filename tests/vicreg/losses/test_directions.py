"""Cosine losses and the spread of directions beside float64 loops in numpy, and on two ranks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from tests.ranks import run_ranks
from vicreg.losses.directions import negative_cosine, spread_of_directions
from vicreg.ranks import distributed

Array = NDArray[np.float64]
ROWS, DIMS = 8, 5


def _pair() -> tuple[Array, Array]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(ROWS, DIMS)) * 3, rng.normal(size=(ROWS, DIMS)) + 1


def _slow(p: Array, z: Array) -> tuple[float, Array]:
    """The loss, and its gradient of the predictions by the derivative of a cosine."""
    loss, gradient = 0.0, np.empty_like(p)
    for i in range(len(p)):
        length = np.linalg.norm(p[i])
        unit, target = p[i] / length, z[i] / np.linalg.norm(z[i])
        cosine = np.dot(unit, target)
        loss -= cosine / len(p)
        gradient[i] = -(target - cosine * unit) / length / len(p)
    return loss, gradient


def test_value_and_gradient_equal_the_slow_program_and_the_target_has_none() -> None:
    arrays = _pair()
    p, z = (torch.tensor(array, requires_grad=True) for array in arrays)
    loss = negative_cosine(p, z)
    loss.backward()
    value, gradient = _slow(*arrays)
    assert loss.item() == pytest.approx(value, rel=1e-12)
    assert p.grad is not None
    np.testing.assert_allclose(p.grad.numpy(), gradient, rtol=1e-10, atol=1e-14)
    assert z.grad is None


def test_the_spread_is_1_where_directions_are_even_and_0_where_they_are_one() -> None:
    a, b = _pair()
    slow = 0.0
    for each in (a, b):
        units = each / np.linalg.norm(each, axis=1, keepdims=True)
        slow += np.mean([units[:, j].std() for j in range(DIMS)]) * np.sqrt(DIMS) / 2
    assert spread_of_directions(torch.tensor(a), torch.tensor(b)).item() == pytest.approx(slow, rel=1e-12)
    even = torch.cat([torch.eye(DIMS), -torch.eye(DIMS)])
    assert spread_of_directions(even).item() == pytest.approx(1.0)
    assert spread_of_directions(torch.ones(4, DIMS) * torch.arange(1.0, 5)[:, None]).item() < 1e-3


def _on_rank() -> tuple[float, float, Tensor]:
    share = ROWS // distributed.world_size()
    own = slice(distributed.rank() * share, (distributed.rank() + 1) * share)
    p, z = (torch.tensor(array[own]) for array in _pair())
    loss = negative_cosine(p.requires_grad_(), z)
    loss.backward()
    assert p.grad is not None
    return loss.item(), spread_of_directions(p, z).item(), distributed.gather_rows(p.grad)


def test_ranks_give_value_and_gradient_of_the_whole_batch(tmp_path: Path) -> None:
    loss, spread, gradient = run_ranks(_on_rank, 2, tmp_path)
    alone = _on_rank()
    assert (loss, spread) == pytest.approx(alone[:2], rel=1e-12)
    torch.testing.assert_close(gradient, alone[2], rtol=1e-12, atol=0)
