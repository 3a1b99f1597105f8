"""InfoNCE as in CLIP (Radford et al., ICML 2021): an image finds its caption, and the caption its image."""

from __future__ import annotations

from torch import Tensor

from vicreg.branches import DirectedBranches, say_branches
from vicreg.config import PretrainConfig
from vicreg.loss_costs import cross_modal_loss_cost
from vicreg.losses.cross_modal import both_ways_loss
from vicreg.method import LossCost, TrainingData
from vicreg.methods.clip import Config


class Clip(DirectedBranches):
    """Both views through their branches, then InfoNCE both ways."""

    def __init__(self, config: PretrainConfig, settings: Config) -> None:
        super().__init__(config)
        self.settings = settings

    def loss(self, a: Tensor, b: Tensor) -> dict[str, Tensor]:
        """The terms are `TERMS`."""
        return both_ways_loss(a, b, self.settings.temperature)


def build(config: PretrainConfig, data: TrainingData) -> Clip:
    """See `NetworkFile`."""
    assert isinstance(config.method, Config)
    return Clip(config, config.method)


def networks(config: PretrainConfig) -> str:
    """See `NetworkFile`."""
    return say_branches(config)


def loss_cost(config: PretrainConfig, ranks: int, size: int) -> LossCost:
    """See `NetworkFile`."""
    return cross_modal_loss_cost(config, ranks, size)
