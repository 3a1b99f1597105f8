"""The running statistics of all batch norms in one piece of memory, so that a step that is left out leaves none behind.

A forward pass changes them before it is known whether the step will be taken. They stand apart from `guards.py`, which
decides that.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

NAMES = ("running_mean", "running_var", "num_batches_tracked")


class RunningStatistics:
    """Holds the statistics of a module's batch norms, which become views on it; state dicts stay as they are."""

    def __init__(self, module: nn.Module) -> None:
        layers = [layer for layer in module.modules() if isinstance(layer, _BatchNorm)]
        owned = [(layer, name) for layer in layers for name in NAMES if getattr(layer, name) is not None]
        dtypes = dict.fromkeys(getattr(layer, name).dtype for layer, name in owned)
        self._held: list[Tensor] = []
        for dtype in dtypes:
            own = [(layer, name) for layer, name in owned if getattr(layer, name).dtype == dtype]
            held = torch.cat([getattr(layer, name).flatten() for layer, name in own])
            begin = 0
            for layer, name in own:
                shape = getattr(layer, name).shape
                setattr(layer, name, held[begin : begin + shape.numel()].view(shape))
                begin += shape.numel()
            self._held.append(held)
        self._before = [held.clone() for held in self._held]

    def remember(self) -> None:
        """Keep what they are before a forward pass."""
        for before, held in zip(self._before, self._held, strict=True):
            before.copy_(held)

    def copies(self) -> list[Tensor]:
        """What they are now."""
        return [held.clone() for held in self._held]

    def put_back(self, copies: list[Tensor]) -> None:
        """What they were."""
        for held, copy in zip(self._held, copies, strict=True):
            held.copy_(copy)

    def floating(self) -> list[Tensor]:
        """Those whose values may become non-finite."""
        return [held for held in self._held if held.is_floating_point()]

    def keep_if(self, taken: Tensor) -> None:
        """Go back to what was remembered unless `taken`, bool () on their device."""
        for before, held in zip(self._before, self._held, strict=True):
            held.copy_(torch.where(taken, held, before))
