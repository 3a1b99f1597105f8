"""SIGReg beside a float64 program of its own in numpy, beside torch's derivative of the formula, and on ranks."""

from __future__ import annotations

import cmath
import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from vicreg.losses.sigreg import directions, sigreg
from vicreg.ranks import distributed

Array = NDArray[np.float64]
KNOTS, LARGEST = 17, 3.0


def _inputs() -> tuple[Array, Array]:
    rng = np.random.default_rng(7)
    onto = rng.normal(size=(6, 4))
    return rng.normal(size=(2, 8, 6)) * 0.7 + 0.3, onto / np.linalg.norm(onto, axis=0)


def _slow(z: Array, onto: Array) -> tuple[float, Array]:
    """The statistic and its gradient, number by number."""
    step = LARGEST / (KNOTS - 1)
    num_views, rows, _ = z.shape
    value, gradient = 0.0, np.zeros_like(z)
    for view in range(num_views):
        for direction in onto.T:
            projected = [float(row @ direction) for row in z[view]]
            for knot in range(KNOTS):
                t = knot * step
                weight = (step if knot in (0, KNOTS - 1) else 2 * step) * math.exp(-t * t / 2)
                apart = sum(cmath.exp(1j * t * x) for x in projected) / rows - math.exp(-t * t / 2)
                value += weight * rows * abs(apart) ** 2
                for row, x in enumerate(projected):
                    slope = 2 * (apart.conjugate() * 1j * t * cmath.exp(1j * t * x)).real
                    gradient[view, row] += weight * slope * direction
    share = num_views * onto.shape[1]
    return value / share, gradient / share


def test_value_and_gradient_equal_the_slow_program() -> None:
    arrays, onto = _inputs()
    z = torch.tensor(arrays, requires_grad=True)
    value = sigreg(z, torch.tensor(onto), KNOTS, LARGEST)
    (2 * value).backward()
    expected, gradient = _slow(arrays, onto)
    assert value.item() == pytest.approx(expected, rel=1e-12)
    assert z.grad is not None
    np.testing.assert_allclose(z.grad.numpy(), 2 * gradient, rtol=1e-9, atol=1e-13)


def test_it_is_the_published_formula() -> None:
    """With all knots of all projections at once, as LeJEPA's minimal example has it, and torch's derivative."""
    arrays, onto = (torch.tensor(array) for array in _inputs())
    z, own = arrays.clone().requires_grad_(), arrays.clone().requires_grad_()
    t = torch.linspace(0, LARGEST, KNOTS, dtype=torch.float64)
    weights = torch.full_like(t, 2 * LARGEST / (KNOTS - 1)) * (-t.square() / 2).exp()
    weights[[0, -1]] /= 2
    angles = (z @ onto)[..., None] * t
    errors = (angles.cos().mean(1) - (-t.square() / 2).exp()).square() + angles.sin().mean(1).square()
    expected = ((errors @ weights) * z.shape[1]).mean()
    expected.backward()
    value = sigreg(own, onto, KNOTS, LARGEST)
    value.backward()
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(own.grad, z.grad, rtol=1e-10, atol=1e-14)


def test_it_is_small_for_normal_rows_and_large_for_others() -> None:
    normal = torch.randn(1, 2000, 8, generator=torch.Generator().manual_seed(0))
    onto = directions(8, 64, 1, normal)
    at_rest = sigreg(normal, onto, KNOTS, LARGEST)
    for other in (normal * 0.1, normal + 1, normal[..., :1].expand(1, 2000, 8), torch.sign(normal)):
        assert sigreg(other, onto, KNOTS, LARGEST) > 3 * at_rest


def test_directions_depend_on_the_seed_alone_and_have_unit_length() -> None:
    like = torch.zeros(1)
    assert torch.equal(directions(5, 9, 3, like), directions(5, 9, 3, like))
    assert not torch.equal(directions(5, 9, 3, like), directions(5, 9, 4, like))
    torch.testing.assert_close(directions(5, 9, 3, like).norm(dim=0), torch.ones(9))


def on_rank() -> tuple[float, Tensor]:
    """Value and gradient of the global batch, of which this rank has its part."""
    arrays, onto = _inputs()
    share = arrays.shape[1] // distributed.world_size()
    own = slice(distributed.rank() * share, (distributed.rank() + 1) * share)
    z = torch.tensor(arrays[:, own], requires_grad=True)
    value = sigreg(z, torch.tensor(onto), KNOTS, LARGEST)
    value.backward()
    assert z.grad is not None
    return value.item(), distributed.gather_rows(z.grad.transpose(0, 1))
