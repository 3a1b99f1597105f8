"""Synchronised batch norm against torch's batch norm of the whole batch in one process."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.ranks import run_ranks
from vicreg.ranks import distributed
from vicreg.ranks.sync_batch_norm import SyncBatchNorm, synchronise


def _input(dims: int) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    shape = (12, 5) if dims == 2 else (12, 5, 3, 2)
    return torch.randn(shape, generator=generator, dtype=torch.float64) * 2 + 1


def _outcome(dims: int, affine: bool = True) -> list[Tensor]:
    torch.manual_seed(0)
    plain: nn.Module = nn.BatchNorm1d(5, affine=affine) if dims == 2 else nn.BatchNorm2d(5, affine=affine)
    network = nn.Sequential(plain.double())
    if affine:
        nn.init.uniform_(network[0].weight)
    synchronise(network, torch.device("cpu"))
    share = 12 // distributed.world_size()
    mine = _input(dims)[distributed.rank() * share :][:share].clone().requires_grad_()
    weights = torch.arange(12.0).double().view(12, *[1] * (dims - 1))[distributed.rank() * share :][:share]
    output = network(mine)
    (output.square() * weights).sum().backward()
    assert mine.grad is not None
    norm = network[0]
    gradients = [distributed.sum_over_ranks(p.grad.clone()) for p in norm.parameters() if p.grad is not None]
    network.eval()
    return [
        distributed.gather_rows(output.detach()),
        distributed.gather_rows(mine.grad),
        distributed.gather_rows(network(mine).detach()),
        *gradients,
        *norm.buffers(),
    ]


def _outcomes() -> list[Tensor]:
    return [tensor for dims, affine in [(2, True), (4, True), (2, False)] for tensor in _outcome(dims, affine)]


@pytest.mark.parametrize("num_ranks", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_equals_batch_norm_of_the_whole_batch(tmp_path: Path, num_ranks: int) -> None:
    for mine, reference in zip(run_ranks(_outcomes, num_ranks, tmp_path), _outcomes(), strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-11, atol=1e-12)


def _uneven() -> list[Tensor]:
    """The same where rank 0 holds 5 of 12 samples, and the last rank the rest."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.BatchNorm2d(5).double())
    nn.init.uniform_(network.get_parameter("0.weight"))
    synchronise(network, torch.device("cpu"), uneven=True)
    counts = [12] if distributed.world_size() == 1 else [5, 7]
    first, own = sum(counts[: distributed.rank()]), counts[distributed.rank()]
    mine = _input(4)[first : first + own].clone().requires_grad_()
    weights = torch.arange(12.0).double().view(12, 1, 1, 1)[first : first + own]
    output = network(mine)
    (output.square() * weights).sum().backward()
    assert mine.grad is not None
    gradients = [distributed.sum_over_ranks(p.grad.clone()) for p in network.parameters() if p.grad is not None]
    rows = [distributed.gather_uneven_rows(one, counts) for one in (output.detach(), mine.grad)]
    return [*rows, *gradients, *network.buffers()]


def test_ranks_with_different_numbers_of_samples(tmp_path: Path) -> None:
    for mine, reference in zip(run_ranks(_uneven, 2, tmp_path), _uneven(), strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-11, atol=1e-12)


def _what_is_learned() -> list[bool]:
    network = nn.Sequential(nn.BatchNorm1d(3), nn.BatchNorm1d(3, affine=False)).requires_grad_(False)
    network.get_parameter("0.weight").requires_grad_()
    synchronise(network, torch.device("cpu"))
    assert all(type(layer) is SyncBatchNorm for layer in network)
    return [parameter.requires_grad for parameter in network.parameters()]


def test_what_is_not_learned_stays_so(tmp_path: Path) -> None:
    """The batch norms of a teacher are synchronised too, and do not become the optimizer's."""
    assert run_ranks(_what_is_learned, 2, tmp_path) == [True, False]


def test_a_single_rank_keeps_torchs_layers() -> None:
    network = nn.Sequential(nn.BatchNorm1d(3))
    assert type(synchronise(network, torch.device("cpu"))[0]) is nn.BatchNorm1d


def test_gradient_passes_finite_differences() -> None:
    norm = SyncBatchNorm(3).double()
    x = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(norm, (x,))
