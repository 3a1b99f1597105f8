"""An encoder as the maps that its stages make, from fine to coarse: what detectors look at.

ResNet-like encoders (torchvision's, timm's and our own: `layer1` to `layer4` behind a stem) can be cut between their
stages; of timm's others that know their maps, all four are taken at once.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

STAGES = ("layer1", "layer2", "layer3", "layer4")
STRIDES = (4, 8, 16, 32)
_PROBE_PX = 64


@dataclass(frozen=True)
class MapSize:
    """One of the maps."""

    channels: int
    stride: int
    """Pixels of the image for one step in the map."""


class StageMaps(nn.Module):
    """The first stages of a ResNet-like encoder: images (B, 3, H, W) to the map of each stage."""

    def __init__(self, encoder: nn.Module, num_stages: int) -> None:
        super().__init__()
        stem = itertools.takewhile(lambda child: child[0] != STAGES[0], encoder.named_children())
        self.stem = nn.Sequential(*(module for _, module in stem))
        self.stages = nn.Sequential(*(encoder.get_submodule(name) for name in STAGES[:num_stages]))

    def forward(self, images: Tensor) -> list[Tensor]:
        """See the class."""
        found: list[Tensor] = [self.stem(images)]
        for stage in self.stages.children():
            found.append(stage(found[-1]))
        return found[1:]


class KnownMaps(nn.Module):
    """An encoder of timm that says itself which of its maps have strides 4, 8, 16 and 32."""

    def __init__(self, encoder: nn.Module, places: list[int]) -> None:
        super().__init__()
        self.encoder, self._places = encoder, places

    def forward(self, images: Tensor) -> list[Tensor]:
        """Images (B, 3, H, W) to four maps (B, C, H / stride, W / stride)."""
        encoder: Any = self.encoder
        found: list[Tensor] = encoder.forward_intermediates(
            images, indices=self._places, output_fmt="NCHW", intermediates_only=True
        )
        return found


def is_resnet_like(encoder: nn.Module) -> bool:
    """Whether it has a stem and four stages by a ResNet's names."""
    children = dict(encoder.named_children())
    return set(STAGES) <= children.keys() and next(iter(children)) != STAGES[0]


def maps_of(encoder: nn.Module, cuts: bool) -> nn.Module:
    """The encoder's own layers (no copy) as maps; ValueError where it has none.

    cuts: three stages alone, for a detector that runs the fourth on regions.
    """
    if is_resnet_like(encoder):
        return StageMaps(encoder, 3 if cuts else 4)
    name = type(encoder).__name__
    if cuts:
        raise ValueError(f"the encoder ({name}) has no stages layer1 to layer4, which head c4 needs; allowed: a ResNet")
    last: dict[int, int] = {}
    if hasattr(encoder, "forward_intermediates"):
        for place, one in enumerate(getattr(encoder, "feature_info", ())):
            last[int(one["reduction"])] = place
    if not set(STRIDES) <= last.keys():
        strides = ", ".join(map(str, sorted(last))) or "none"
        raise ValueError(
            f"the encoder ({name}) has maps of strides {strides}, head fpn needs {', '.join(map(str, STRIDES))}; "
            "allowed: a ResNet, or an encoder of timm with these maps (such as convnext_tiny)"
        )
    return KnownMaps(encoder, [last[stride] for stride in STRIDES])


@torch.no_grad()
def map_sizes(maps: nn.Module) -> list[MapSize]:
    """Channels and stride of each map, found by looking."""
    was_training = maps.training
    maps.eval()
    device = next(maps.parameters()).device
    found = [
        MapSize(one.shape[1], _PROBE_PX // one.shape[2])
        for one in maps(torch.zeros(1, 3, _PROBE_PX, _PROBE_PX, device=device))
    ]
    maps.train(was_training)
    return found
