"""MoCo in the official program's order: the teacher moves, makes the keys, the loss is taken, the keys are queued."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tests.vicreg.methods.small_steps import BATCH, learner_of, small, take, views
from vicreg.key_queue import KeyQueue
from vicreg.moving_average import teacher_of
from vicreg.networks.moco_v2 import Moco

LENGTH = 3 * BATCH
SETTINGS: dict[str, Any] = {"queue_length": LENGTH, "momentum": 0.9, "final_momentum": 0.9}


def _moco(**settings: Any) -> tuple[Any, Moco]:
    learner = learner_of(small("moco-v2", "moco_v2", **SETTINGS, **settings))
    assert isinstance(learner.method, Moco)
    return learner, learner.method


def _keys(moco: Moco, view: int = 0) -> Tensor:
    queue = moco.queues[view]
    assert isinstance(queue, KeyQueue)
    return queue.keys


def _slow_loss(queries: Tensor, keys: Tensor, queue: Tensor, temperature: float) -> float:
    loss = 0.0
    for query, key in zip(queries.numpy(), keys.numpy(), strict=True):
        unit = query / np.linalg.norm(query)
        logits = np.array([np.dot(unit, other) for other in [key, *queue.numpy()]]) / temperature
        loss += (np.log(np.exp(logits).sum()) - logits[0]) / len(queries)
    return loss


def test_it_goes_in_the_official_order() -> None:
    learner, moco = _moco()
    slow = [parameter.detach().clone() for parameter in moco.student.parameters()]
    queue, oldest = _keys(moco).clone(), 0
    for step in range(4):
        teacher = teacher_of(moco.student)
        with torch.no_grad():
            for parameter, before, now in zip(teacher.parameters(), slow, moco.student.parameters(), strict=True):
                parameter.copy_(0.9 * before + 0.1 * now)
            slow = [parameter.clone() for parameter in teacher.parameters()]
            keys = functional.normalize(teacher(views(step)[1]))
            loss = _slow_loss(teacher_of(moco.student)(views(step)[0]), keys, queue, 0.2)
        assert take(learner, step)["loss"] == pytest.approx(loss, rel=1e-9)
        queue[oldest : oldest + BATCH] = keys
        oldest = (oldest + BATCH) % LENGTH
        torch.testing.assert_close(_keys(moco), queue, rtol=1e-9, atol=1e-12)


def test_both_directions_have_a_queue_each() -> None:
    learner, moco = _moco(both_directions=True)
    before = [_keys(moco, view).clone() for view in range(2)]
    with torch.no_grad():
        of = [functional.normalize(moco.teacher(view)) for view in views(0)]
        asked = [moco.student(view) for view in views(0)]
        expected = np.mean([_slow_loss(asked[view], of[1 - view], before[view], 0.2) for view in range(2)])
    assert take(learner, 0)["loss"] == pytest.approx(expected, rel=1e-9)
    for view in range(2):
        torch.testing.assert_close(_keys(moco, view)[:BATCH], of[1 - view], rtol=1e-9, atol=1e-12)


def test_teacher_queue_and_place_survive_a_stop() -> None:
    learner, moco = _moco()
    for step in range(2):
        take(learner, step)
    state = {name: value.clone() for name, value in moco.state_dict().items()}
    assert int(state["queues.0.oldest"]) == 2 * BATCH
    other, again = _moco()
    again.load_state_dict(state)
    assert torch.equal(_keys(again), _keys(moco))
    assert other.method is again


def test_what_cannot_be_is_refused() -> None:
    config = small("moco-v2", "moco_v2", **SETTINGS | {"queue_length": LENGTH + 1})
    with pytest.raises(ValueError, match=r"queue_length is 25, allowed: a multiple of global_batch \(8\)"):
        learner_of(config)
    unshared = dataclasses.replace(config, model=dataclasses.replace(config.model, encoder_b="resnet18"))
    with pytest.raises(ValueError, match="encoder_b is 'resnet18', allowed: none for moco_v2"):
        learner_of(unshared)
