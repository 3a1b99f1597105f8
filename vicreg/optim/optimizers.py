"""The optimizer that a configuration names, over a method's groups of parameters, and their learning rates."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from vicreg.config import OptimizerConfig
from vicreg.method import ParameterGroup
from vicreg.optim.lars import Lars
from vicreg.optim.schedule import learning_rate, peak_lr


def build_optimizer(settings: OptimizerConfig, parts: Sequence[ParameterGroup]) -> torch.optim.Optimizer:
    """A fresh optimizer, whose rates `set_rates` sets. On GPUs it leaves a step out by its attribute `found_inf`.

    There the rates lie on the device too, where all is float32: a step in a CUDA graph may then be told another.
    """
    groups: list[dict[str, Any]] = [
        {
            "params": list(part.parameters),
            "weight_decay": settings.weight_decay if part.decays else 0.0,
            "rate_factor": part.rate_factor,
            "follows_schedule": part.follows_schedule,
            "adapted": part.adapted,
            "rests_steps": part.rests_steps,
        }
        for part in parts
        if part.parameters
    ]
    first = groups[0]["params"][0]
    fused = first.device.type == "cuda"
    if fused and first.dtype == torch.float32:
        for group in groups:
            group["lr"] = torch.zeros((), device=first.device)
    if settings.name == "lars":
        return Lars(
            groups,
            momentum=settings.momentum,
            trust_coefficient=settings.trust_coefficient,
            clip_lr=settings.clip_lr,
        )
    if settings.name == "sgd":
        return torch.optim.SGD(
            groups, lr=settings.base_lr, momentum=settings.momentum, nesterov=settings.nesterov, fused=fused
        )
    return torch.optim.AdamW(groups, lr=settings.base_lr, fused=fused)


def peak_rate(settings: OptimizerConfig, global_batch: int) -> float:
    """The largest learning rate: scaled with the batch but for AdamW, where no linear rule holds."""
    return settings.base_lr if settings.name == "adamw" else peak_lr(settings.base_lr, global_batch)


def rate_at(settings: OptimizerConfig, global_batch: int, step: int, num_steps: int, steps_per_epoch: int) -> float:
    """The learning rate of a step."""
    return learning_rate(
        step,
        num_steps,
        round(settings.warmup_epochs * steps_per_epoch),
        peak_rate(settings, global_batch),
        settings.final_lr_ratio,
        settings.warmup_start_lr,
    )


def set_rates(optimizer: torch.optim.Optimizer, rate: float, peak: float) -> None:
    """Every group's rate where the schedule is at `rate`."""
    for group in optimizer.param_groups:
        set_rate(group, group["rate_factor"] * (rate if group["follows_schedule"] else peak))


def set_rate(group: dict[str, Any], rate: float) -> None:
    """One group's rate, where it lies."""
    if isinstance(group["lr"], Tensor):
        group["lr"].fill_(rate)
    else:
        group["lr"] = rate


@contextmanager
def resting(optimizer: torch.optim.Optimizer, step: int) -> Iterator[None]:
    """Groups that rest in this step have no gradient meanwhile, so that neither decay nor momentum moves them."""
    groups = [group for group in optimizer.param_groups if step < group["rests_steps"]]
    gradients = [(parameter, parameter.grad) for group in groups for parameter in group["params"]]
    for parameter, _ in gradients:
        parameter.grad = None
    try:
        yield
    finally:
        for parameter, gradient in gradients:
            parameter.grad = gradient


def load_state(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Go back to a state of the momenta; settings stay those that the optimizer was built with."""
    settings = [{name: value for name, value in g.items() if name != "params"} for g in optimizer.param_groups]
    optimizer.load_state_dict(state)
    for group, own in zip(optimizer.param_groups, settings, strict=True):
        group.update(own)
