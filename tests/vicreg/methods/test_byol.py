"""BYOL's loss beside numpy, and its teacher, which follows after the step."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.vicreg.methods.small_steps import NUM_STEPS, learner_of, small, take, views
from vicreg.method import Inputs, Progress
from vicreg.networks.byol import Byol


def test_the_loss_is_both_directions_squared_distance() -> None:
    method = learner_of(small("byol", "byol", predictor_width=16)).method
    assert isinstance(method, Byol)
    labels = torch.zeros(8, dtype=torch.int64)
    loss = method(Inputs(views(0), labels, labels), Progress(0, 10, 5))["loss"].item()
    expected = 0.0
    with torch.no_grad():
        for one, other in [(0, 1), (1, 0)]:
            predicted = method.predictor(method.student(views(0)[one])).numpy()
            target = method.teacher(views(0)[other]).numpy()
            for p, z in zip(predicted, target, strict=True):
                expected += np.sum((p / np.linalg.norm(p) - z / np.linalg.norm(z)) ** 2) / 8
    assert loss == pytest.approx(expected, rel=1e-10)


def test_the_teacher_follows_what_the_step_has_made_of_the_student() -> None:
    learner = learner_of(small("byol", "byol", predictor_width=16, momentum=0.9))
    method = learner.method
    assert isinstance(method, Byol)
    slow = {name: p.numpy().copy() for name, p in method.teacher.named_parameters()}
    for step in range(3):
        take(learner, step)
        momentum = 1 - (1 - 0.9) * (np.cos(np.pi * step / NUM_STEPS) + 1) / 2
        for name, parameter in method.student.named_parameters():
            slow[name] = momentum * slow[name] + (1 - momentum) * parameter.detach().numpy()
    for name, parameter in method.teacher.named_parameters():
        np.testing.assert_allclose(parameter.numpy(), slow[name], rtol=1e-10, atol=1e-14, err_msg=name)
        assert parameter.grad is None
    # Running statistics are the teacher's own: of what it saw, and no average of the student's.
    teacher, student = (network.get_buffer("0.bn1.running_mean") for network in (method.teacher, method.student))
    assert not torch.equal(teacher, student)
    assert int(method.teacher.get_buffer("0.bn1.num_batches_tracked")) == 2 * 3


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match=r"momentum is 1\.5, allowed: from 0 to 1"):
        small("byol", "byol", momentum=1.5)
