"""SimCLR (Chen, Kornblith, Norouzi, Hinton, ICML 2020): each view finds the other one among all of the global batch."""

from __future__ import annotations

from torch import Tensor

from vicreg.branches import DirectedBranches, say_branches
from vicreg.config import PretrainConfig
from vicreg.loss_costs import nt_xent_cost
from vicreg.losses.contrastive import nt_xent_loss
from vicreg.losses.forms import NUM_VIEWS
from vicreg.method import LossCost, TrainingData
from vicreg.methods.simclr import Config


class SimClr(DirectedBranches):
    """Both views through their branches, then NT-Xent."""

    def __init__(self, config: PretrainConfig, settings: Config) -> None:
        super().__init__(config)
        self.settings = settings

    def loss(self, a: Tensor, b: Tensor) -> dict[str, Tensor]:
        """The terms are `TERMS`."""
        factor = NUM_VIEWS if self.settings.directions == "sum" else 1
        return nt_xent_loss(a, b, self.settings.temperature, factor)


def build(config: PretrainConfig, data: TrainingData) -> SimClr:
    """See `MethodFile`."""
    assert isinstance(config.method, Config)
    return SimClr(config, config.method)


def networks(config: PretrainConfig) -> str:
    """See `MethodFile`."""
    return say_branches(config)


def loss_cost(config: PretrainConfig, ranks: int, size: int) -> LossCost:
    """See `MethodFile`."""
    return nt_xent_cost(config, ranks, size)
