"""LARS, layer-wise adaptive rates (You et al., arXiv 1708.03888), at the speed at which its numbers can be moved.

Everything is read for the norms, then read and written for the update, 28 bytes a value, and not once for every
operation. On a GPU two kernels over all parameters (`lars_kernels.py`), or torch's fused calls where these do not run,
with no value read back. On a CPU norms block by block, then a step of torch's fused SGD, whose dampening is the factor.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from vicreg import kernels

BLOCK = 1 << 18
"""Values of a parameter whose norms a CPU takes at a time: with the gradient they stay in its cache (2 MB)."""


Three = tuple[Tensor, Tensor, Tensor]
"""A parameter, its gradient, its momentum."""


class Lars(torch.optim.Optimizer):
    """LARS with momentum, in the order of the official VICReg code.

    For a parameter p with gradient g: g += weight_decay * p; g *= trust * |p| / |g| (1 where either norm is 0);
    m = momentum * m + g; p -= lr * m. With `clip_lr`, as in solo-learn (`solo/utils/lars.py`), the factor is
    min(trust * |p| / (|g| + weight_decay * |p| + 1e-8) / lr, 1) of the norms before weight decay is added.
    """

    def __init__(
        self,
        parameters: Iterable[Tensor] | Iterable[dict[str, Any]],
        *,
        momentum: float = 0.9,
        weight_decay: float = 1e-6,
        trust_coefficient: float = 0.001,
        clip_lr: bool = False,
    ) -> None:
        """`parameters`, or groups of them, which say whether they are "adapted" and may differ in weight decay.

        Of plain parameters those of one dimension (biases, batch norm) have neither weight decay nor an adapted rate,
        as in the official VICReg code.
        """
        given = list(parameters)
        plain = [entry for entry in given if isinstance(entry, Tensor)]
        groups = [entry for entry in given if isinstance(entry, dict)] or [
            {"params": [p for p in plain if p.ndim != 1], "adapted": True},
            {"params": [p for p in plain if p.ndim == 1], "adapted": False, "weight_decay": 0.0},
        ]
        defaults = {
            "lr": 0.0,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "trust_coefficient": trust_coefficient,
            "clip_lr": clip_lr,
        }
        super().__init__([group for group in groups if group["params"]], defaults)
        self._tables: dict[int, Any] = {}
        self.found_inf: Tensor | None = None

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # no closure: nothing here evaluates anew
        """Update every parameter that has a gradient; the gradients are used up.

        On a GPU nothing changes where the attribute `found_inf`, a float (), is set and not 0: torch's way (of its
        fused optimizers) to leave a step out without asking the GPU.
        """
        for number, group in enumerate(self.param_groups):
            parameters = [p for p in group["params"] if p.grad is not None]
            on_cpu = [p for p in parameters if _is_on_cpu(p)]
            together = [p for p in parameters if not _is_on_cpu(p)]
            if together:
                self._step_together(together, group, number)
            if on_cpu:
                self._step_on_cpu(on_cpu, group)

    def _step_together(self, parameters: list[Tensor], group: dict[str, Any], number: int) -> None:
        tensors = [(p, p.grad, self._momentum(p)) for p in parameters if p.grad is not None]
        own = kernels.load("vicreg.optim.lars_kernels", parameters[0].device)
        table = self._table(own, tensors, number) if own else None
        if own and table:
            self._step_in_kernels(own, table, parameters[0].device, group)
        else:
            _step_in_calls(tensors, self.found_inf, group)

    def _table(self, own: ModuleType, tensors: Sequence[Three], number: int) -> Any:
        """Where the kernels find a group's tensors; None where these do not fit them."""
        table = self._tables.get(number)
        if table is None or table.key != own.addresses_of(tensors):  # layouts are looked at only then: it takes 2 ms
            table = self._tables[number] = own.Table.build(tensors) if all(map(_fits_kernels, tensors)) else None
        return table

    def _step_in_kernels(self, own: ModuleType, table: Any, device: torch.device, group: dict[str, Any]) -> None:
        found_inf = self.found_inf if self.found_inf is not None else torch.zeros((), device=device)
        rate = group["lr"] if isinstance(group["lr"], Tensor) else torch.full((), group["lr"], device=device)
        weight_decay = group["weight_decay"]
        factors = torch.ones(len(table.sizes), device=device)
        if group["adapted"]:
            weights, updates = own.squares(table, 0.0 if group["clip_lr"] else weight_decay).sqrt().unbind()
            factors = _factors(weights, updates, group)
        own.update(table, factors, found_inf, rate, group["momentum"], weight_decay)

    def _step_on_cpu(self, parameters: Sequence[Tensor], group: dict[str, Any]) -> None:
        for parameter in parameters:
            assert parameter.grad is not None
            three = (parameter, parameter.grad, self._momentum(parameter))
            flat = _flat(three)
            factor = float(_factors(*_norms(*flat[:2], group), group)) if group["adapted"] else 1.0
            _fused_step([flat], group, group["weight_decay"], 1 - factor)
            for tensor, values in zip(three, flat, strict=True):
                if tensor.data_ptr() != values.data_ptr():
                    tensor.copy_(values.view_as(tensor))

    def _momentum(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(parameter)
        momentum: Tensor = state["momentum"]
        return momentum


def _step_in_calls(tensors: Sequence[Three], found_inf: Tensor | None, group: dict[str, Any]) -> None:
    """One call for all tensors for each operation; what is left after the gradients' scaling is a step of SGD."""
    parameters, gradients, _ = (list(column) for column in zip(*tensors, strict=True))
    if group["adapted"]:
        norms = torch.stack(torch._foreach_norm(parameters))
        if group["clip_lr"]:
            factors = _factors(norms, torch.stack(torch._foreach_norm(gradients)), group)
            torch._foreach_add_(gradients, parameters, alpha=group["weight_decay"])
        else:
            torch._foreach_add_(gradients, parameters, alpha=group["weight_decay"])
            factors = _factors(norms, torch.stack(torch._foreach_norm(gradients)), group)
        torch._foreach_mul_(gradients, list(factors.unbind()))
    weight_decay = 0.0 if group["adapted"] else group["weight_decay"]
    _fused_step(tensors, group, weight_decay, found_inf=found_inf)


def _fused_step(
    tensors: Sequence[Three],
    group: dict[str, Any],
    weight_decay: float,
    dampening: float = 0.0,
    found_inf: Tensor | None = None,
) -> None:
    """m = momentum * m + (1 - dampening) * (g + weight_decay * p); p -= rate * m, in one pass over all tensors."""
    columns = [list(column) for column in zip(*tensors, strict=True)]
    torch._fused_sgd_(
        *columns,
        weight_decay=weight_decay,
        momentum=group["momentum"],
        lr=group["lr"],
        dampening=dampening,
        nesterov=False,
        maximize=False,
        is_first_step=False,
        found_inf=found_inf,
    )


def _fits_kernels(three: Three) -> bool:
    """Float32 without gaps, all three in the same order of memory."""
    compact = all(_is_compact(tensor) for tensor in three)
    alike = all(tensor.stride() == three[0].stride() and tensor.dtype == torch.float32 for tensor in three)
    return compact and alike


def _is_on_cpu(parameter: Tensor) -> bool:
    return parameter.device.type == "cpu"


def _flat(three: Three) -> Three:
    """The values of all three in one order: that of memory where they are laid out alike, else copies."""
    if all(_is_compact(tensor) and tensor.stride() == three[0].stride() for tensor in three):
        parameter, gradient, momentum = (tensor.as_strided((tensor.numel(),), (1,)) for tensor in three)
    else:
        parameter, gradient, momentum = (tensor.reshape(-1).contiguous() for tensor in three)
    return parameter, gradient, momentum


def _norms(parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Of a parameter and of what it is to be changed by, without weight decay where the rate is clipped; both (n,)."""
    decay = 0.0 if group["clip_lr"] else group["weight_decay"]
    scratch = torch.empty_like(parameter[:BLOCK])
    squares = []
    for p, g in zip(parameter.split(BLOCK), gradient.split(BLOCK), strict=True):
        update = torch.add(g, p, alpha=decay, out=scratch[: len(p)]) if decay else g
        squares.append((torch.dot(p, p), torch.dot(update, update)))  # in half the time of torch's norm
    weight, change = (torch.stack(parts).sum().sqrt() for parts in zip(*squares, strict=True))
    return weight, change


def _is_compact(tensor: Tensor) -> bool:
    """Whether its values lie beside each other, in whatever order."""
    return sum((n - 1) * stride for n, stride in zip(tensor.shape, tensor.stride(), strict=True)) == tensor.numel() - 1


def _factors(weights: Tensor, updates: Tensor, group: dict[str, Any]) -> Tensor:
    """What the gradients are multiplied by, from the norms of parameters and gradients."""
    if group["clip_lr"]:
        rates = group["trust_coefficient"] * weights / (updates + group["weight_decay"] * weights + 1e-8)
        rate = group["lr"]
        factors = (rates / (rate.clamp_min(1e-12) if isinstance(rate, Tensor) else max(rate, 1e-12))).clamp_max(1)
    else:
        factors = group["trust_coefficient"] * weights / updates
    return torch.where((weights > 0) & (updates > 0), factors, torch.ones_like(factors))
