"""Sinkhorn's rounds and SwAV's prediction beside float64 programs of their own in numpy, and on several ranks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from vicreg.losses import prototypes
from vicreg.losses.prototypes import sinkhorn, swapped_prediction
from vicreg.losses.settings import SMALLEST_EPSILON
from vicreg.ranks import distributed

Array = NDArray[np.float64]
VIEWS, ROWS, DIMS, CLUSTERS, TEMPERATURE = 4, 8, 6, 5, 0.1


def _unit(*shape: int, seed: int) -> Array:
    rows = np.random.default_rng(seed).normal(size=shape)
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def _slow_sinkhorn(scores: Array, epsilon: float, num_rounds: int) -> Array:
    """As the official program has it: prototypes x samples, divided by the total, then by turns."""
    q = np.exp(scores / epsilon).T
    clusters, samples = q.shape
    q /= q.sum()
    for _ in range(num_rounds):
        for cluster in range(clusters):
            q[cluster] /= q[cluster].sum() * clusters
        for sample in range(samples):
            q[:, sample] /= q[:, sample].sum() * samples
    return (q * samples).T


def _slow_loss(z: Array, clusters: Array, assigned: list[Array]) -> float:
    loss = 0.0
    for first, target in enumerate(assigned):
        part = 0.0
        for second in range(len(z)):
            if second == first:
                continue
            for row in range(z.shape[1]):
                scores = clusters @ z[second, row] / TEMPERATURE
                logs = scores - np.log(np.exp(scores).sum())
                part -= float(target[row] @ logs) / z.shape[1]
        loss += part / (len(z) - 1)
    return loss / len(assigned)


def _slow_gradients(z: Array, clusters: Array, assigned: list[Array]) -> tuple[Array, Array]:
    """Through the scores of one row at a time."""
    of_z, of_clusters = np.zeros_like(z), np.zeros_like(clusters)
    for first, target in enumerate(assigned):
        for second in range(len(z)):
            if second == first:
                continue
            for row in range(z.shape[1]):
                scores = np.exp(clusters @ z[second, row] / TEMPERATURE)
                error = (scores / scores.sum() - target[row]) / TEMPERATURE
                error /= len(assigned) * (len(z) - 1) * z.shape[1]
                of_z[second, row] += error @ clusters
                of_clusters += np.outer(error, z[second, row])
    return of_z, of_clusters


def test_assignments_equal_the_slow_program() -> None:
    scores = np.random.default_rng(0).uniform(-1, 1, (ROWS, CLUSTERS))
    ours = sinkhorn(torch.tensor(scores), torch.ones(ROWS).double(), 0.05, 3)
    np.testing.assert_allclose(ours.numpy(), _slow_sinkhorn(scores, 0.05, 3), rtol=1e-12)
    used = sinkhorn(torch.tensor(scores), torch.ones(ROWS).double(), 0.05, 200).sum(0)
    torch.testing.assert_close(used, torch.full((CLUSTERS,), ROWS / CLUSTERS).double())


def test_rows_that_do_not_count_change_nothing() -> None:
    scores = torch.tensor(np.random.default_rng(0).uniform(-1, 1, (ROWS, CLUSTERS)))
    counts = torch.cat([torch.ones(5), torch.zeros(ROWS - 5)]).double()
    torch.testing.assert_close(
        sinkhorn(scores, counts, 0.05, 3)[:5], sinkhorn(scores[:5], counts[:5], 0.05, 3), rtol=1e-12, atol=0
    )


def test_cosines_of_the_smallest_epsilon_stay_in_float32() -> None:
    scores = torch.linspace(-1, 1, 4096).repeat(3, 1).T.contiguous()
    found = sinkhorn(scores, torch.ones(4096), SMALLEST_EPSILON, 3)
    torch.testing.assert_close(found.sum(1), torch.ones(4096))


def _inputs() -> tuple[Array, Array, list[Array]]:
    z, clusters = _unit(VIEWS, ROWS, DIMS, seed=1), _unit(CLUSTERS, DIMS, seed=2)
    return z, clusters, [_slow_sinkhorn(z[view] @ clusters.T, 0.05, 3) for view in range(2)]


@pytest.mark.parametrize("entries_at_a_time", [15, 1 << 22])
def test_value_and_gradient_equal_the_slow_program(monkeypatch: pytest.MonkeyPatch, entries_at_a_time: int) -> None:
    monkeypatch.setattr(prototypes, "block_of", lambda side: max(1, entries_at_a_time // side))
    arrays, clusters, assigned = _inputs()
    z, weight = torch.tensor(arrays, requires_grad=True), torch.tensor(clusters, requires_grad=True)
    loss = swapped_prediction(z, weight, [torch.tensor(q) for q in assigned], TEMPERATURE)
    (2 * loss).backward()
    assert loss.item() == pytest.approx(_slow_loss(arrays, clusters, assigned), rel=1e-12)
    for tensor, expected in zip((z, weight), _slow_gradients(arrays, clusters, assigned), strict=True):
        assert tensor.grad is not None
        np.testing.assert_allclose(tensor.grad.numpy(), 2 * expected, rtol=1e-10, atol=1e-13)


def test_the_slow_gradient_is_the_slow_losss() -> None:
    z, clusters, assigned = _inputs()
    rng, step = np.random.default_rng(5), 1e-6
    to_z, to_clusters = rng.normal(size=z.shape), rng.normal(size=clusters.shape)
    ahead, behind = (_slow_loss(z + h * to_z, clusters + h * to_clusters, assigned) for h in (step, -step))
    of_z, of_clusters = _slow_gradients(z, clusters, assigned)
    assert (ahead - behind) / 2 / step == pytest.approx((of_z * to_z).sum() + (of_clusters * to_clusters).sum())


def on_rank() -> tuple[float, Tensor, Tensor, Tensor]:
    """Value, assignments and gradients of the global batch, of which this rank has its part."""
    share = ROWS // distributed.world_size()
    own = slice(distributed.rank() * share, (distributed.rank() + 1) * share)
    arrays, clusters, _ = _inputs()
    z, weight = torch.tensor(arrays[:, own], requires_grad=True), torch.tensor(clusters, requires_grad=True)
    ones = torch.ones(share).double()
    assigned = [sinkhorn((z[view] @ weight.T).detach(), ones, 0.05, 3) for view in range(2)]
    loss = swapped_prediction(z, weight, assigned, TEMPERATURE)
    loss.backward()
    assert z.grad is not None
    assert weight.grad is not None
    of_z = distributed.gather_rows(z.grad.transpose(0, 1))
    return loss.item(), distributed.gather_rows(assigned[0]), of_z, distributed.sum_over_ranks(weight.grad)
