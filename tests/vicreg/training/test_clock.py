"""The ranks' own time for a step: the slowest is named, whatever the others have waited for it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.ranks import run_ranks
from tests.vicreg.methods.small_runs import small
from vicreg.data.batches import Batch
from vicreg.method import TrainingData
from vicreg.ranks import distributed
from vicreg.ranks.distributed import Placement
from vicreg.training.clock import Clock, slowest_of


def test_the_slowest_is_compared_with_the_median() -> None:
    work, data = np.array([0.1, 0.1, 0.4, 0.1]), np.array([0.0, 0.1, 0.0, 0.0])
    assert slowest_of(work, data) == {
        "rank_ms_median": 150.0,
        "rank_ms_worst": 400.0,
        "slowest_rank": 2,
        "slowest_factor": pytest.approx(400 / 150, abs=1e-3),
        "slowest_wait_share": 0.0,
    }
    assert slowest_of(work[:2], data[:2])["slowest_wait_share"] == 0.5


def _steps(folder: Path, slow_rank: int, slow_data: bool, views_s: list[float] | None) -> dict[str, float]:
    rank = distributed.rank()
    clock = Clock(small("vicreg", folder), TrainingData(1, 1), 0, Placement(rank, 2), torch.device("cpu"))

    empty = torch.zeros(0)
    batch = Batch((), (), empty, empty)

    def batches() -> Iterator[Batch]:
        for _ in range(3):
            time.sleep(0.2 * (slow_data and rank == slow_rank))
            yield batch

    found: dict[str, float] = {}
    for _ in clock.timed(batches()):
        time.sleep(0.2 * (not slow_data and rank == slow_rank))
        distributed.sum_over_ranks(torch.ones(1))  # in which the others wait
        found = clock.compare(views_s[rank] if views_s else None) or found
    return found


@pytest.mark.parametrize("slow_data", [False, True])
def test_waiting_for_others_is_nobodys_own_time(tmp_path: Path, slow_data: bool) -> None:
    found = run_ranks(_steps, 2, tmp_path, tmp_path, 1, slow_data, None)
    assert found["slowest_rank"] == 1
    assert found["slowest_factor"] > 1.2
    assert (found["slowest_wait_share"] > 0.5) == slow_data


def test_on_gpus_the_time_for_the_views_tells_which_is_slow(tmp_path: Path) -> None:
    found = run_ranks(_steps, 2, tmp_path, tmp_path, 2, False, [0.04, 0.01])
    assert (found["slowest_rank"], round(found["slowest_factor"], 1)) == (0, 1.6)
