"""Ranks find each other, agree, and sum gradients as one process would compute them."""

from __future__ import annotations

import os
import socket
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.ranks import FORKSERVER, run_ranks
from tests.threaded_ranks import run_threaded_ranks
from vicreg.ranks import distributed
from vicreg.ranks.distributed import Placement
from vicreg.ranks.gradient_sum import GradientSum
from vicreg.ranks.rendezvous import RendezvousError, connected
from vicreg.views.order import shard


def _collectives() -> dict[str, object]:
    rank = distributed.rank()
    return {
        "sum": distributed.sum_over_ranks(torch.tensor([rank + 1.0])).item(),
        "rows": distributed.gather_rows(torch.full((2, 1), float(rank))).flatten().tolist(),
        "uneven": distributed.gather_uneven_rows(torch.full((rank, 1), float(rank)), [0, 1, 2]).flatten().tolist(),
        "any": distributed.any_rank(rank == 2),
        "none": distributed.any_rank(False),
        "first": distributed.from_rank_0(rank + 7),
    }


def test_collectives_of_three_ranks(tmp_path: Path) -> None:
    assert run_ranks(_collectives, 3, tmp_path) == {
        "sum": 6.0,
        "rows": [0, 0, 1, 1, 2, 2],
        "uneven": [1, 2, 2],
        "any": True,
        "none": False,
        "first": 7,
    }


@pytest.mark.slow
def test_512_ranks_agree() -> None:
    num_samples = 1000

    def agree() -> tuple[object, ...]:
        rank = distributed.rank()
        shards = [shard(num_samples, other, 512) for other in range(512)]
        mine = torch.tensor(shards[rank]).reshape(-1, 1)
        gathered = distributed.gather_uneven_rows(mine, [len(part) for part in shards]).flatten().tolist()
        return (
            [distributed.any_rank(rank == stopping) for stopping in (0, 371, 511, None)],
            distributed.from_rank_0(rank + 7),
            distributed.sum_over_ranks(torch.tensor([rank])).item(),
            gathered == list(range(num_samples)),
        )

    assert run_threaded_ranks(agree, 512) == [([True, True, True, False], 7, 512 * 511 // 2, True)] * 512


def test_one_process_needs_no_group() -> None:
    rows = torch.ones(2, 1)
    assert distributed.gather_rows(rows) is rows
    assert distributed.any_rank(True)
    assert (distributed.rank(), distributed.world_size()) == (0, 1)


def test_missing_ranks_are_named(tmp_path: Path) -> None:
    with (
        pytest.raises(RendezvousError, match=r"ranks \[1, 2\] of 3 did not come within"),
        connected(Placement(0, 3, 0, 3), tmp_path / "here.json", timeout_s=0.3),
    ):
        pass


def test_a_missing_first_rank_is_named(tmp_path: Path) -> None:
    with (
        pytest.raises(RendezvousError, match=r"rank 1 waited .* for the address of rank 0 in .*here\.json"),
        connected(Placement(1, 2, 1, 2), tmp_path / "here.json", timeout_s=0.3),
    ):
        pass


def _network() -> nn.Module:
    torch.manual_seed(0)
    convolution = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    return nn.Sequential(convolution, nn.Flatten(), nn.Linear(16, 5), nn.ReLU(), nn.Linear(5, 2)).double()


def _summed_gradients(bucket_mb: float) -> list[torch.Tensor]:
    network = _network()
    unused = nn.Parameter(torch.ones(3, dtype=torch.float64))
    network.register_parameter("unused", unused)
    gradients = GradientSum(network, bucket_mb)
    images = torch.arange(8 * 3 * 16, dtype=torch.float64).view(8, 3, 4, 4) / 100
    share = 8 // distributed.world_size()
    for _ in range(2):  # the second step must not remember the first
        gradients.clear()
        mine = images[distributed.rank() * share :][:share]
        network(mine).square().sum().backward()
        gradients.finish()
    return [p.grad.clone() for p in gradients.parameters if p.grad is not None]


@pytest.mark.parametrize("bucket_mb", [1e-5, 25.0])
def test_summed_gradients_equal_one_process(tmp_path: Path, bucket_mb: float) -> None:
    network = _network()
    images = torch.arange(8 * 3 * 16, dtype=torch.float64).view(8, 3, 4, 4) / 100
    network(images).square().sum().backward()
    together = run_ranks(_summed_gradients, 2, tmp_path, bucket_mb)
    for parameter, summed in zip([*network.parameters()], together[1:], strict=True):
        torch.testing.assert_close(parameter.grad, summed, rtol=1e-12, atol=1e-12)
    assert together[0].abs().sum() == 0  # the unused parameter comes first in the module


def test_gradients_are_views_that_autograd_keeps() -> None:
    network = _network()
    gradients = GradientSum(network)
    before = [p.grad.data_ptr() for p in gradients.parameters if p.grad is not None]
    network(torch.ones(1, 3, 4, 4, dtype=torch.float64)).sum().backward()
    assert before == [p.grad.data_ptr() for p in gradients.parameters if p.grad is not None]
    assert all(p.grad is not None and p.grad.stride() == p.stride() for p in gradients.parameters)


def _meet_twice(rank: int, port: int, folder: Path) -> list[int]:
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    sums = []
    for name in ("pretrain", "evaluations"):
        with connected(Placement(rank, 2, rank, 2), folder / name, timeout_s=60, is_given=True):
            sums.append(int(distributed.sum_over_ranks(torch.tensor(rank + 1))))
    return sums


def test_ranks_meet_at_a_given_address_job_after_job(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    with ProcessPoolExecutor(2, mp_context=FORKSERVER) as pool:
        found = list(pool.map(_meet_twice, (0, 1), (port, port), (tmp_path, tmp_path)))
    assert found == [[3, 3], [3, 3]]


def test_nobody_at_a_given_address_is_an_error_that_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    monkeypatch.setenv("MASTER_PORT", "9")
    with (
        pytest.raises(RendezvousError, match=r"rank 1 cannot reach rank 0 where .* localhost port 9 "),
        connected(Placement(1, 2, 1, 2), tmp_path / "name", timeout_s=0.3, is_given=True),
    ):
        pass
