"""VSE++ (Faghri et al., BMVC 2018): an image and its caption nearer to each other than to the hardest others."""

from __future__ import annotations

from torch import Tensor

from vicreg.branches import DirectedBranches, say_branches
from vicreg.config import PretrainConfig
from vicreg.loss_costs import cross_modal_loss_cost
from vicreg.losses.cross_modal import hardest_negative_loss
from vicreg.method import LossCost, TrainingData
from vicreg.methods.vse_pp import Config


class VsePp(DirectedBranches):
    """Both views through their branches, then the hinge on the hardest negatives."""

    def __init__(self, config: PretrainConfig, settings: Config) -> None:
        super().__init__(config)
        self.settings = settings

    def loss(self, a: Tensor, b: Tensor) -> dict[str, Tensor]:
        """The terms are `TERMS`."""
        return hardest_negative_loss(a, b, self.settings.margin)


def build(config: PretrainConfig, data: TrainingData) -> VsePp:
    """See `NetworkFile`."""
    assert isinstance(config.method, Config)
    return VsePp(config, config.method)


def networks(config: PretrainConfig) -> str:
    """See `NetworkFile`."""
    return say_branches(config)


def loss_cost(config: PretrainConfig, ranks: int, size: int) -> LossCost:
    """See `NetworkFile`."""
    return cross_modal_loss_cost(config, ranks, size)
