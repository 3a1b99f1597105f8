"""The learning rate as a pure function of the step: linear warm-up, then half a cosine (official code)."""

from __future__ import annotations

import math


def peak_lr(base_lr: float, global_batch: int) -> float:
    """The linear scaling rule: `base_lr` holds for 256 images (paper, section 4.2)."""
    return base_lr * global_batch / 256


def learning_rate(
    step: int, num_steps: int, warmup_steps: int, peak: float, final_ratio: float, start: float = 0.0
) -> float:
    """Learning rate of step `step` (0 is the first) of a run of `num_steps` steps.

    It rises linearly from `start` over `warmup_steps` steps, then falls along half a cosine to `peak * final_ratio`.
    Source: `adjust_learning_rate` of the official program, where final_ratio = 0.001.
    """
    if step < warmup_steps:
        return start + (peak - start) * step / warmup_steps
    share = (step - warmup_steps) / max(num_steps - warmup_steps, 1)
    height = 0.5 * (1 + math.cos(math.pi * share))
    return peak * (height + final_ratio * (1 - height))
