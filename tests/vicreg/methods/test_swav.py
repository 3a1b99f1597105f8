"""SwAV: what rests, what the queue holds and when it is used, and what is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

from tests.vicreg.methods.small_runs import DATA, small
from vicreg import networks
from vicreg.losses.prototypes import sinkhorn
from vicreg.method import Inputs, Progress
from vicreg.methods.swav import Config
from vicreg.networks.swav import Swav
from vicreg.training.learner import Learner

CPU = torch.device("cpu")
ROWS = 8


def _learner(optimizer: str = "lars", batch: int = ROWS, **settings: Any) -> Learner:
    config = small("swav", Path("digits"))
    config = dataclasses.replace(
        config,
        method=Config(num_prototypes=6, **settings),
        views=(dataclasses.replace(config.views[0], count=2),),
        model=dataclasses.replace(config.model, expander="12-5"),
        optimizer=dataclasses.replace(config.optimizer, name=optimizer, base_lr=5.0, weight_decay=0.1),
        train=dataclasses.replace(config.train, global_batch=batch, deterministic=True),
    )
    return Learner.build(config, CPU, DATA)


def _step(learner: Learner, step: int, per_epoch: int = 1) -> dict[str, Tensor]:
    torch.manual_seed(step)
    inputs = Inputs([torch.randn(ROWS, 3, 16, 16) for _ in range(2)], torch.arange(ROWS), torch.arange(ROWS))
    return learner.learn(inputs, Progress(step, 20, per_epoch))


def _swav(learner: Learner) -> Swav:
    assert isinstance(learner.method, Swav)
    return learner.method


@pytest.mark.parametrize("optimizer", ["lars", "sgd", "adamw"])
def test_prototypes_at_rest_are_moved_by_nothing(optimizer: str) -> None:
    """Neither by the gradient nor by decay; and when they begin to move, no momentum is left from before."""
    learner = _learner(optimizer, rest_steps=3)
    weight = _swav(learner).prototypes.weight
    before, encoder = weight.clone(), _swav(learner).encoder.get_parameter("conv1.weight").clone()
    for step in range(3):
        _step(learner, step)
        assert torch.equal(weight, before)
        assert not learner.optimizer.state.get(weight)
    assert not torch.equal(_swav(learner).encoder.get_parameter("conv1.weight"), encoder)
    _step(learner, 3)
    assert not torch.allclose(weight, before)
    torch.testing.assert_close(weight.norm(dim=1), torch.ones(6))


def test_the_queue_holds_what_came_last_and_is_used_once_full() -> None:
    learner = _learner(queue_length=2 * ROWS, queue_from_epoch=1.0, rest_steps=0)
    method = _swav(learner)
    pushed: list[Tensor] = []
    for step in range(5):
        assigned = []
        original = method._assign

        def watched(view: int, rows: Tensor, progress: Progress, say: Any = original, into: Any = assigned) -> Tensor:
            into.append(say(view, rows, progress))
            return into[-1]

        clusters = method.prototypes.weight.detach().clone()
        with patch.object(method, "_assign", watched):
            _step(learner, step)
        own = method._assigned[0]
        # Embeddings that were queued meet today's prototypes, from the step on in which the queue is full.
        beside = [own, *pushed[-2:]] if step >= 3 else [own]
        scores = torch.cat(beside) @ clusters.T
        expected = sinkhorn(scores, torch.ones(len(scores)), 0.05, 3)[:ROWS]
        torch.testing.assert_close(assigned[0], expected)
        if step >= 1:  # epoch 1
            pushed.append(own)
    keys = method.queues[0].get_buffer("keys")
    assert torch.equal(keys, torch.cat([pushed[2], pushed[3]]))


def test_what_it_cannot_work_with_is_refused() -> None:
    with pytest.raises(ValueError, match=r"queue_length is 12, allowed: a multiple of global_batch \(8\)"):
        _learner(queue_length=12)
    with pytest.raises(ValueError, match=r"views is '2 of an image', allowed: 3 or more for swav"):
        _learner(num_assigned=3)
    with pytest.raises(ValueError, match=r"epsilon is 0.01, allowed: 0.02 or more"):
        Config(epsilon=0.01)


@pytest.mark.parametrize("method", ["supervised", "supcon"])
@pytest.mark.parametrize(("num_classes", "said"), [(0, "none"), (1, "1")])
def test_methods_that_need_classes_refuse_data_without(method: str, num_classes: int, said: str) -> None:
    data = dataclasses.replace(DATA, num_classes=num_classes)
    with pytest.raises(ValueError, match=f"method.name is '{method}', which learns from classes, but .* have {said};"):
        networks.build(small(method, Path("digits")), data)
