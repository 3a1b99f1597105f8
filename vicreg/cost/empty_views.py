"""Views and weights without content, of the shapes and types that a step has: what networks are counted with."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vicreg.branch_kinds import Kind
from vicreg.config import PretrainConfig
from vicreg.cost.view_shapes import view_shape
from vicreg.method import Method

USUAL_WORDS = 24
"""Of the longest of some hundred captions: what a batch of them is padded to (COCO, Flickr8k: 10 to 11 on average)."""


def empty_views(config: PretrainConfig, rows: int, dtype: torch.dtype, device: torch.device) -> list[Tensor]:
    """A view of each number for so many samples: images or sound (rows, ...) of `dtype`, captions (rows, L) int64."""
    layout = torch.channels_last if config.train.channels_last else torch.contiguous_format
    shapes = [view_shape(config, number) for number in range(len(config.each_view))]
    images = [
        torch.empty((rows, *shape), dtype=dtype, device=device, memory_format=layout if len(shape) == 3 else None)
        for shape in shapes
    ]
    return images + [_empty(kind, rows, device) for kind in config.other_kinds]


def _empty(kind: Kind, rows: int, device: torch.device) -> Tensor:
    assert kind == "text", kind
    return torch.zeros(rows, USUAL_WORDS, dtype=torch.int64, device=device)


def fake_tensors(method: Method, device: torch.device) -> dict[int, Tensor]:
    """A fake tensor for each parameter and buffer, by the identity of what it stands for; to be called in fake mode."""
    return {
        id(t): torch.empty(t.shape, dtype=t.dtype, device=device, requires_grad=t.requires_grad)
        for t in [*method.parameters(), *method.buffers()]
    }


def named(network: nn.Module, fakes: dict[int, Tensor]) -> dict[str, Tensor]:
    """The fake tensors of one network by its own names, as `functional_call` wants them."""
    return {name: fakes[id(t)] for name, t in [*network.named_parameters(), *network.named_buffers()]}
