"""The teacher beside a float64 loop in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from vicreg.method import Progress
from vicreg.moving_average import follow, momentum_at, teacher_of


def test_it_follows_parameters_alone_and_only_taken_steps() -> None:
    torch.manual_seed(0)
    student = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).double()
    teacher = teacher_of(student)
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    slow = [parameter.detach().numpy().copy() for parameter in student.parameters()]
    rng = np.random.default_rng(0)
    with torch.no_grad():
        for step in range(4):
            for parameter in student.parameters():
                parameter.add_(torch.tensor(rng.normal(size=tuple(parameter.shape))))
            student(torch.randn(8, 3).double())  # moves the running statistics
            momentum, taken = 0.9 + 0.02 * step, step != 1
            follow(teacher, student, momentum, torch.tensor(taken))
            if taken:
                slow = [
                    momentum * old + (1 - momentum) * new.detach().numpy()
                    for old, new in zip(slow, student.parameters(), strict=True)
                ]
    for parameter, expected in zip(teacher.parameters(), slow, strict=True):
        np.testing.assert_allclose(parameter.numpy(), expected, rtol=1e-12)
    assert torch.equal(teacher.get_buffer("1.running_mean"), torch.zeros(4).double())


@pytest.mark.parametrize(("start", "end"), [(0.99, 1.0), (0.99, 0.999), (0.999, 0.999)])
def test_its_momentum_rises_along_half_a_cosine(start: float, end: float) -> None:
    for step in (0, 3, 10):
        expected = end - (end - start) * (np.cos(np.pi * step / 10) + 1) / 2
        assert momentum_at(start, end, Progress(step, 10, 5)) == pytest.approx(expected, rel=1e-15)
    assert momentum_at(start, end, Progress(0, 10, 5)) == pytest.approx(start)
    assert momentum_at(start, end, Progress(10, 10, 5)) == end
