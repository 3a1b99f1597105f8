"""The queue beside a list that is pushed and popped, on one rank and on two."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.ranks import run_ranks
from vicreg.key_queue import KeyQueue
from vicreg.ranks import distributed

LENGTH, DIMS, BATCH = 12, 3, 4


def _batch(step: int) -> Tensor:
    return torch.tensor(np.random.default_rng(step).normal(size=(BATCH, DIMS)))


def _pushed(steps: int, not_taken: int) -> tuple[Tensor, int]:
    torch.manual_seed(0)
    queue = KeyQueue(LENGTH, DIMS, BATCH).double()
    share = BATCH // distributed.world_size()
    for step in range(steps):
        own = _batch(step)[distributed.rank() * share :][:share]
        queue.push(own, torch.tensor(step != not_taken))
    return queue.keys, int(queue.oldest)


def test_the_oldest_go_first_and_a_step_that_is_left_out_leaves_nothing() -> None:
    torch.manual_seed(0)
    slow = list(KeyQueue(LENGTH, DIMS, BATCH).double().keys)
    np.testing.assert_allclose([float(key.norm()) for key in slow], 1, rtol=1e-6)
    oldest = 0
    for step in range(5):
        if step != 2:
            for key in _batch(step):
                slow[oldest] = key
                oldest = (oldest + 1) % LENGTH
    keys, place = _pushed(5, not_taken=2)
    assert torch.equal(keys, torch.stack(slow))
    assert place == oldest == 4


def test_ranks_push_in_their_order(tmp_path: Path) -> None:
    keys, place = run_ranks(_pushed, 2, tmp_path, 4, -1)
    alone, same = _pushed(4, -1)
    assert torch.equal(keys, alone)
    assert place == same


def test_its_length_is_a_multiple_of_the_global_batch() -> None:
    with pytest.raises(ValueError, match=r"queue_length is 10, allowed: a multiple of global_batch \(4\)"):
        KeyQueue(10, DIMS, BATCH)
    with pytest.raises(ValueError, match="queue_length is 0"):
        KeyQueue(0, DIMS, BATCH)
