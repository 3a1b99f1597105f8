"""A teacher: a copy of a network that follows its weights slowly and is never learned.

Parameters are averaged, nothing else: batch norm of the teacher normalises by the batch, as that of the student, and
has running statistics of its own (BYOL, appendix J; MoCo's official code).
"""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn

from vicreg.method import Progress


def teacher_of(network: nn.Module) -> nn.Module:
    """A copy with the same weights, which have no gradient."""
    return copy.deepcopy(network).requires_grad_(False)


def momentum_at(start: float, end: float, progress: Progress) -> float:
    """The share of itself that the teacher keeps: from `start` to `end` along half a cosine over the run.

    Source: BYOL (Grill et al., NeurIPS 2020), section 3.2, where end = 1: 1 - (1 - start) (cos(pi k / K) + 1) / 2.
    """
    return end - (end - start) * (math.cos(math.pi * progress.step / progress.num_steps) + 1) / 2


def follow(teacher: nn.Module, student: nn.Module, momentum: float, taken: Tensor) -> None:
    """Move the teacher's parameters by 1 - momentum of the way to the student's; not at all unless `taken`, bool ()."""
    slow: list[Tensor] = list(teacher.parameters())
    fast: list[Tensor] = list(student.parameters())
    torch._foreach_lerp_(slow, fast, [taken.to(slow[0].dtype) * (1 - momentum)] * len(slow))
