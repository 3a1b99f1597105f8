"""Both views through a network at once, where batch norm still sees each view alone: fewer, larger kernels.

The same result as one view after the other, which is the official program's way: mean and variance of a batch are
those of one view, and the running averages take the first view's before the second's.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def separate_statistics(network: nn.Module, num_views: int) -> None:
    """Let every batch norm, of whatever kind, take a training batch as `num_views` views one below the other."""
    for layer in network.modules():
        if isinstance(layer, _BatchNorm):
            # Of this one layer: a module around it would change the names in the state that is saved.
            layer.forward = partial(_each_view, layer, layer.forward, num_views)  # type: ignore[method-assign]


def _each_view(layer: nn.Module, normalise: Callable[[Tensor], Tensor], num_views: int, images: Tensor) -> Tensor:
    if not layer.training:
        return normalise(images)
    return torch.cat([normalise(view) for view in images.chunk(num_views)])
