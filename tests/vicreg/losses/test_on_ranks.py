"""Losses and memory of the global batch on several ranks, beside one: in one group of ranks for all of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.ranks import run_ranks
from tests.vicreg import test_memory_bank, test_patches
from tests.vicreg.losses import test_prediction, test_prototypes, test_sigreg

ON_RANK: dict[str, Callable[[], Any]] = {
    module.__name__: module.on_rank
    for module in (test_prediction, test_prototypes, test_sigreg, test_memory_bank, test_patches)
}


def _all() -> dict[str, Any]:
    return {name: run() for name, run in ON_RANK.items()}


@pytest.mark.parametrize("num_ranks", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_ranks_give_value_and_gradient_of_the_whole_batch(tmp_path: Path, num_ranks: int) -> None:
    together, alone = run_ranks(_all, num_ranks, tmp_path), _all()
    assert together.keys() == alone.keys()
    for name, (value, *tensors) in alone.items():
        assert together[name][0] == pytest.approx(value, rel=1e-12), name
        for mine, theirs in zip(together[name][1:], tensors, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-14, msg=lambda said, n=name: f"{n}: {said}")
