"""LARS, layer-wise adaptive rates (You et al., arXiv 1708.03888), at the speed at which its numbers can be moved.

On a GPU two kernels over all parameters (`lars_kernels.py`), or torch's fused calls where these do not run, with no
value read back. On a CPU block by block, each read from memory
twice (for the norms, for the update) and not once for every operation.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from vicreg import kernels

BLOCK = 1 << 18
"""Values of a parameter that a CPU updates at a time: with gradient and momentum they stay in its cache (3 MB)."""


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
            together = [p for p in parameters if not _is_in_blocks(p)]
            if together:
                self._step_together(together, group, number)
            for parameter in parameters:
                if _is_in_blocks(parameter):
                    self._step_in_blocks(parameter, group)

    def _step_together(self, parameters: list[Tensor], group: dict[str, Any], number: int) -> None:
        tensors = [(p, p.grad, self._momentum(p)) for p in parameters if p.grad is not None]
        found_inf = self.found_inf
        own = (
            kernels.load("vicreg.optim.lars_kernels", parameters[0].device)
            if all(map(_fits_kernels, tensors))
            else None
        )
        if own:
            found_inf = found_inf if found_inf is not None else torch.zeros((), device=parameters[0].device)
            self._step_in_kernels(own, tensors, found_inf, group, number)
        else:
            _step_in_calls(tensors, found_inf, group)

    def _step_in_kernels(
        self, own: ModuleType, tensors: Sequence[Three], found_inf: Tensor, group: dict[str, Any], number: int
    ) -> None:
        table = self._tables.get(number)
        if table is None or table.key != own.addresses_of(tensors):
            table = self._tables[number] = own.Table.build(tensors)
        weight_decay = group["weight_decay"]
        factors = torch.ones(len(tensors), device=tensors[0][0].device)
        if group["adapted"]:
            weights, updates = own.squares(table, 0.0 if group["clip_lr"] else weight_decay).sqrt().unbind()
            factors = _factors(weights, updates, group)
        own.update(table, factors, found_inf, group["lr"], group["momentum"], weight_decay)

    def _step_in_blocks(self, parameter: Tensor, group: dict[str, Any]) -> None:
        assert parameter.grad is not None
        memory = (parameter, parameter.grad, self._momentum(parameter))
        blocks = list(zip(*(_blocks(tensor, memory) for tensor in memory), strict=True))
        weight_decay = group["weight_decay"]
        scratch = torch.empty_like(blocks[0][0])
        factor = 1.0
        if group["adapted"]:
            decay = 0.0 if group["clip_lr"] else weight_decay
            squares = [(_square(p), _square(_decayed(g, p, decay, scratch))) for p, g, _ in blocks]
            weight, update = (torch.stack(parts).sum().sqrt() for parts in zip(*squares, strict=True))
            factor = float(_factors(weight, update, group))
        for p, g, momentum in blocks:
            momentum.mul_(group["momentum"]).add_(_decayed(g, p, weight_decay, scratch), alpha=factor)
            p.add_(momentum, alpha=-group["lr"])

    def _momentum(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(parameter)
        momentum: Tensor = state["momentum"]
        return momentum


def _step_in_calls(tensors: Sequence[Three], found_inf: Tensor | None, group: dict[str, Any]) -> None:
    """One call for all tensors for each operation; what is left after the gradients' scaling is a step of SGD."""
    parameters, gradients, momenta = (list(column) for column in zip(*tensors, strict=True))
    if group["adapted"]:
        norms = torch.stack(torch._foreach_norm(parameters))
        if group["clip_lr"]:
            factors = _factors(norms, torch.stack(torch._foreach_norm(gradients)), group)
            torch._foreach_add_(gradients, parameters, alpha=group["weight_decay"])
        else:
            torch._foreach_add_(gradients, parameters, alpha=group["weight_decay"])
            factors = _factors(norms, torch.stack(torch._foreach_norm(gradients)), group)
        torch._foreach_mul_(gradients, list(factors.unbind()))
    torch._fused_sgd_(
        parameters,
        gradients,
        momenta,
        weight_decay=0.0 if group["adapted"] else group["weight_decay"],
        momentum=group["momentum"],
        lr=group["lr"],
        dampening=0.0,
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


def _is_in_blocks(parameter: Tensor) -> bool:
    return parameter.device.type == "cpu"


def _blocks(tensor: Tensor, alike: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """A tensor's values in the order of memory, in blocks; one block where the tensors are not laid out `alike`."""
    if not _is_compact(tensor) or any(other.stride() != tensor.stride() for other in alike):
        return (tensor,)
    blocks: tuple[Tensor, ...] = tensor.as_strided((tensor.numel(),), (1,)).split(BLOCK)
    return blocks


def _is_compact(tensor: Tensor) -> bool:
    """Whether its values lie beside each other, in whatever order."""
    return sum((n - 1) * stride for n, stride in zip(tensor.shape, tensor.stride(), strict=True)) == tensor.numel() - 1


def _decayed(gradient: Tensor, parameter: Tensor, weight_decay: float, scratch: Tensor) -> Tensor:
    """gradient + weight_decay * parameter, in memory that is used again."""
    if weight_decay == 0:
        return gradient
    out = scratch if scratch.shape == gradient.shape else scratch[: len(gradient)]
    return torch.add(gradient, parameter, alpha=weight_decay, out=out)


def _square(values: Tensor) -> Tensor:
    """The sum of squares, which as a dot product takes half the time of torch's norm."""
    flat = values.reshape(-1)
    return torch.dot(flat, flat)


def _factors(weights: Tensor, updates: Tensor, group: dict[str, Any]) -> Tensor:
    """What the gradients are multiplied by, from the norms of parameters and gradients."""
    if group["clip_lr"]:
        rates = group["trust_coefficient"] * weights / (updates + group["weight_decay"] * weights + 1e-8)
        factors = (rates / max(group["lr"], 1e-12)).clamp_max(1)
    else:
        factors = group["trust_coefficient"] * weights / updates
    return torch.where((weights > 0) & (updates > 0), factors, torch.ones_like(factors))
