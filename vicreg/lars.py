"""LARS, layer-wise adaptive rates (You et al., arXiv 1708.03888), in multi-tensor steps.

A few fused calls over all parameters instead of a Python loop, no value read back from the device. One-dimensional
parameters (biases, batch norm) have neither weight decay nor an adapted rate, as in the official VICReg code.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


class Lars(torch.optim.Optimizer):
    """LARS with momentum, in the order of the official VICReg code.

    For a parameter p with gradient g: g += weight_decay * p; g *= trust * |p| / |g| (1 where either norm is 0);
    m = momentum * m + g; p -= lr * m. With `clip_lr`, as in solo-learn (`solo/utils/lars.py`), the factor is
    min(trust * |p| / (|g| + weight_decay * |p| + 1e-8) / lr, 1) of the norms before weight decay is added.
    """

    def __init__(
        self,
        parameters: Iterable[Tensor],
        *,
        momentum: float = 0.9,
        weight_decay: float = 1e-6,
        trust_coefficient: float = 0.001,
        clip_lr: bool = False,
    ) -> None:
        everything = list(parameters)
        groups: list[dict[str, Any]] = [
            {"params": [p for p in everything if p.ndim != 1], "adapted": True},
            {"params": [p for p in everything if p.ndim == 1], "adapted": False},
        ]
        defaults = {
            "lr": 0.0,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "trust_coefficient": trust_coefficient,
            "clip_lr": clip_lr,
        }
        super().__init__([group for group in groups if group["params"]], defaults)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient; the gradients are used up."""
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if not parameters:
                continue
            gradients = [p.grad for p in parameters]
            if group["adapted"]:
                if group["clip_lr"]:
                    _adapt_clipped(parameters, gradients, group)
                else:
                    _adapt(parameters, gradients, group)
            momenta = [self._momentum(p) for p in parameters]
            torch._foreach_mul_(momenta, group["momentum"])
            torch._foreach_add_(momenta, gradients)
            torch._foreach_add_(parameters, momenta, alpha=-group["lr"])

    def _momentum(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(parameter)
        momentum: Tensor = state["momentum"]
        return momentum


def _adapt(parameters: list[Tensor], gradients: list[Tensor], group: dict[str, Any]) -> None:
    torch._foreach_add_(gradients, parameters, alpha=group["weight_decay"])
    weights = torch.stack(torch._foreach_norm(parameters))
    updates = torch.stack(torch._foreach_norm(gradients))
    factors = group["trust_coefficient"] * weights / updates
    factors = torch.where((weights > 0) & (updates > 0), factors, torch.ones_like(factors))
    torch._foreach_mul_(gradients, list(factors.unbind()))


def _adapt_clipped(parameters: list[Tensor], gradients: list[Tensor], group: dict[str, Any]) -> None:
    weights = torch.stack(torch._foreach_norm(parameters))
    updates = torch.stack(torch._foreach_norm(gradients))
    rates = group["trust_coefficient"] * weights / (updates + group["weight_decay"] * weights + 1e-8)
    factors = (rates / max(group["lr"], 1e-12)).clamp_max(1)
    factors = torch.where((weights > 0) & (updates > 0), factors, torch.ones_like(factors))
    torch._foreach_add_(gradients, parameters, alpha=group["weight_decay"])
    torch._foreach_mul_(gradients, list(factors.unbind()))
