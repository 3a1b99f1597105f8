"""SimCLR (Chen, Kornblith, Norouzi, Hinton, ICML 2020): each view finds the other one among all of the global batch."""

from __future__ import annotations

from torch import Tensor

from vicreg.branches import Branches, say_branches
from vicreg.config import (
    PretrainConfig,
)
from vicreg.loss_costs import nt_xent_cost
from vicreg.losses.contrastive import nt_xent_loss
from vicreg.losses.directions import spread_of_directions
from vicreg.losses.forms import NUM_VIEWS
from vicreg.method import Inputs, LossCost, Progress, TrainingData
from vicreg.methods.simclr import Config


class SimClr(Branches):
    """Both views through their branches, then NT-Xent."""

    follows_progress = False

    def __init__(self, config: PretrainConfig, settings: Config) -> None:
        super().__init__(config)
        self.settings = settings

    def forward(self, inputs: Inputs, progress: Progress) -> dict[str, Tensor]:
        """See `Method`; the terms are `TERMS`."""
        embedded = self.embed(inputs.views)
        factor = NUM_VIEWS if self.settings.directions == "sum" else 1
        terms = nt_xent_loss(embedded.a, embedded.b, self.settings.temperature, factor)
        spread = spread_of_directions(embedded.a, embedded.b)
        return terms | {"embedding_std": spread, "features": embedded.features}


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
