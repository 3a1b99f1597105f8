"""Networks as they are built, with weights that have shapes and no values: nothing is computed, and nothing is held.

Fake tensors from the start would not do: small arithmetic in the constructors of timm's encoders asks for values.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from vicreg.config import ModelConfig
from vicreg.model import encoder_by_config


class WeightsOnMeta(TorchFunctionMode):
    """Layers take their weights from torch.empty, which gives none here; small arithmetic in constructors is real."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """See the class."""
        if func is torch.empty:
            return func(*args, **{**(kwargs or {}), "device": "meta"})
        return func(*args, **(kwargs or {}))


def encoder_on_meta(model: ModelConfig) -> nn.Module:
    """The encoder of a configuration, all of it on the meta device."""
    with torch.random.fork_rng(devices=[]), WeightsOnMeta():
        encoder = encoder_by_config(model)
    return encoder.to("meta")


def with_empty_weights(module: nn.Module) -> nn.Module:
    """The same module with new weights and buffers; fake ones in fake mode, whatever they were before."""
    for layer in module.modules():
        for name, weight in list(layer.named_parameters(recurse=False)):
            empty = torch.empty(weight.shape, dtype=weight.dtype)
            setattr(layer, name, nn.Parameter(empty, requires_grad=weight.requires_grad))
        for name, buffer in list(layer.named_buffers(recurse=False)):
            setattr(layer, name, torch.empty(buffer.shape, dtype=buffer.dtype))
    return module
