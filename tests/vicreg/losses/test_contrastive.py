"""Contrastive losses beside float64 loops of their own in numpy, pair by pair, and on several ranks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from tests.ranks import run_ranks
from vicreg.losses.contrastive import contrast_cost, nt_xent_loss, queue_loss
from vicreg.losses.settings import LOWEST_TEMPERATURE
from vicreg.ranks import distributed

Array = NDArray[np.float64]
ROWS, DIMS, TEMPERATURE = 8, 5, 0.3
LABELS = np.array([0, 1, 0, 2, 1, 0, 3, 3])


def _embeddings(rows: int = ROWS, seed: int = 0) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    a = rng.normal(size=(rows, DIMS)) * rng.uniform(0.5, 4, (rows, 1))
    return a, a + 0.7 * rng.normal(size=(rows, DIMS))


def _unit(z: Array) -> Array:
    unit: Array = z / np.linalg.norm(z, axis=1, keepdims=True)
    return unit


def _slow_loss(a: Array, b: Array, labels: Array | None, factor: float) -> float:
    """Equation 1 of SimCLR, and L_out of SupCon where there are labels: every pair, every exponential."""
    z = _unit(np.concatenate([a, b]))
    total = len(z)
    whose = np.tile(np.arange(len(a)) if labels is None else labels, 2)
    loss = 0.0
    for i in range(total):
        denominator = 0.0
        for j in range(total):
            if j != i:
                denominator += np.exp(np.dot(z[i], z[j]) / TEMPERATURE)
        together = [j for j in range(total) if j != i and whose[j] == whose[i]]
        for j in together:
            loss -= np.log(np.exp(np.dot(z[i], z[j]) / TEMPERATURE) / denominator) / len(together)
    return factor * loss / total


def _slow_queue_loss(queries: Array, keys: Array, queue: Array) -> float:
    loss = 0.0
    for query, key in zip(_unit(queries), keys, strict=True):
        logits = [np.dot(query, other) / TEMPERATURE for other in [key, *queue]]
        loss -= logits[0] - np.log(np.sum(np.exp(logits)))
    return loss / len(queries)


def _slow_gradient(function: Any, *arrays: Array) -> list[Array]:
    """Central differences, entry by entry."""
    step, gradients = 1e-5, []
    for array in arrays:
        gradient = np.empty_like(array)
        for place in np.ndindex(array.shape):
            kept = array[place]
            array[place] = kept + step
            above = function(*arrays)
            array[place] = kept - step
            below = function(*arrays)
            array[place] = kept
            gradient[place] = (above - below) / (2 * step)
        gradients.append(gradient)
    return gradients


def _tensors(*arrays: Array) -> list[Tensor]:
    return [torch.tensor(array, requires_grad=True) for array in arrays]


@pytest.fixture(params=[1 << 22, 160], ids=["at once", "in blocks"])
def block(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of all rows, or of two: then each is made twice."""
    monkeypatch.setattr("vicreg.losses.forms.BLOCK_ENTRIES", request.param)


@pytest.mark.usefixtures("block")
@pytest.mark.parametrize("labels", [None, LABELS], ids=["pairs", "labels"])
def test_value_and_gradient_equal_the_slow_program(labels: Array | None) -> None:
    arrays = _embeddings()
    a, b = _tensors(*arrays)
    whose = None if labels is None else torch.tensor(labels)
    terms = nt_xent_loss(a, b, TEMPERATURE, 2.0, whose)
    (3 * terms["loss"]).backward()
    assert terms["loss"].item() == pytest.approx(_slow_loss(*arrays, labels, 2.0), rel=1e-12)
    expected = _slow_gradient(lambda x, y: _slow_loss(x, y, labels, 2.0), *arrays)
    for z, slow in zip((a, b), expected, strict=True):
        assert z.grad is not None
        np.testing.assert_allclose(z.grad.numpy(), 3 * slow, rtol=1e-6, atol=1e-8)
    if labels is None:
        cosines = (_unit(arrays[0]) * _unit(arrays[1])).sum(1)
        assert terms["positive_similarity"].item() == pytest.approx(cosines.mean())


@pytest.mark.usefixtures("block")
def test_against_a_queue_too() -> None:
    queries, keys = _embeddings()
    keys, queue = _unit(keys), _unit(_embeddings(20, seed=1)[0])
    q, k, others = _tensors(queries, keys, queue)
    terms = queue_loss(q, k, others, TEMPERATURE)
    terms["loss"].backward()
    assert terms["loss"].item() == pytest.approx(_slow_queue_loss(queries, keys, queue), rel=1e-12)
    (expected,) = _slow_gradient(lambda x: _slow_queue_loss(x, keys, queue), queries)
    assert q.grad is not None
    np.testing.assert_allclose(q.grad.numpy(), expected, rtol=1e-6, atol=1e-8)
    assert k.grad is None
    assert others.grad is None


def test_autograds_gradient_of_the_plain_formula_is_ours() -> None:
    a, b = _tensors(*_embeddings(32))
    z = torch.nn.functional.normalize(torch.cat([a, b]))
    logits = (z @ z.T / TEMPERATURE).fill_diagonal_(-torch.inf)
    plain = torch.nn.functional.cross_entropy(logits, torch.arange(64).roll(32))
    expected = torch.autograd.grad(plain, (a, b))
    loss = nt_xent_loss(a, b, TEMPERATURE)["loss"]
    torch.testing.assert_close(loss, plain, rtol=1e-12, atol=0)
    for mine, theirs in zip(torch.autograd.grad(loss, (a, b)), expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-14)


def test_the_coldest_allowed_is_a_number_in_float32() -> None:
    a = torch.eye(4).requires_grad_()
    loss = nt_xent_loss(a, -a, LOWEST_TEMPERATURE)["loss"]
    loss.backward()
    assert loss.item() == pytest.approx(40 + np.log(6), rel=1e-5)  # -1 with its partner, 0 with the six others
    assert a.grad is not None
    assert a.grad.isfinite().all()


def test_half_precision_embeddings_are_compared_in_float32() -> None:
    a, b = (torch.tensor(z).to(torch.bfloat16) for z in _embeddings())
    expected = nt_xent_loss(a.float(), b.float(), 0.1)["loss"]
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(nt_xent_loss(a, b, 0.1)["loss"], expected)
        keys = torch.nn.functional.normalize(b.float())
        assert queue_loss(a, keys, keys, 0.1)["loss"].dtype == torch.float32


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match=r"shapes \(4, 3\) and \(4, 2\)"):
        nt_xent_loss(torch.zeros(4, 3), torch.zeros(4, 2), 0.1)
    with pytest.raises(ValueError, match=r"temperature is 0.01, allowed: 0.025 or more"):
        nt_xent_loss(torch.zeros(4, 3), torch.zeros(4, 3), 0.01)
    with pytest.raises(ValueError, match=r"\(4, 3\), \(4, 3\), \(9, 2\), allowed: n x D, n x D, K x D"):
        queue_loss(torch.zeros(4, 3), torch.zeros(4, 3), torch.zeros(9, 2), 0.1)


def _own(array: Any) -> Any:
    share = len(array) // distributed.world_size()
    return array[distributed.rank() * share : (distributed.rank() + 1) * share]


def _on_rank() -> dict[str, tuple[float, Tensor]]:
    """Both losses of the global batch, and the gradient of all its rows: the first view's, then the second's."""
    found = {}
    queue = torch.tensor(_unit(_embeddings(20, seed=1)[0]))
    for name, labels in [("pairs", None), ("labels", torch.tensor(_own(LABELS)))]:
        a, b = _tensors(*map(_own, _embeddings()))
        loss = nt_xent_loss(a, b, TEMPERATURE, 2.0, labels)["loss"]
        grads = torch.autograd.grad(loss, (a, b))
        found[name] = loss.item(), torch.cat([distributed.gather_rows(grad) for grad in grads])
    (queries,) = _tensors(_own(_embeddings()[0]))
    terms = queue_loss(queries, torch.tensor(_own(_unit(_embeddings()[1]))), queue, TEMPERATURE)
    (grad,) = torch.autograd.grad(terms["loss"], (queries,))
    found["queue"] = terms["loss"].item(), distributed.gather_rows(grad)
    return found


@pytest.mark.parametrize("num_ranks", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_ranks_give_value_and_gradient_of_the_whole_batch(tmp_path: Path, num_ranks: int) -> None:
    """Each row is left out against itself where it stands among everybody's."""
    alone = _on_rank()
    for name, (loss, gradient) in run_ranks(_on_rank, num_ranks, tmp_path).items():
        assert loss == pytest.approx(alone[name][0], rel=1e-12), name
        torch.testing.assert_close(gradient, alone[name][1], rtol=1e-10, atol=1e-14)


def test_less_is_held_than_the_similarities() -> None:
    cost = contrast_cost(4096, 4096, 128, 1, 4, twice=True)
    assert cost.memory_bytes <= 4096 * 4096 * 4 / 2
    assert contrast_cost(64, 65536, 128, 4, 4, twice=False).sent_bytes == 0
