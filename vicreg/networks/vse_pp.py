"""VSE++ (Faghri et al., BMVC 2018): an image and its caption nearer to each other than to the hardest others."""

from __future__ import annotations

from torch import Tensor

from vicreg.branches import Branches, say_branches
from vicreg.config import PretrainConfig
from vicreg.loss_costs import cross_modal_loss_cost
from vicreg.losses.cross_modal import hardest_negative_loss
from vicreg.losses.directions import spread_of_directions
from vicreg.method import Inputs, LossCost, Progress, TrainingData
from vicreg.methods.vse_pp import Config


class VsePp(Branches):
    """Both views through their branches, then the hinge on the hardest negatives."""

    follows_progress = False

    def __init__(self, config: PretrainConfig, settings: Config) -> None:
        super().__init__(config)
        self.settings = settings

    def forward(self, inputs: Inputs, progress: Progress) -> dict[str, Tensor]:
        """See `Method`; the terms are `TERMS`."""
        embedded = self.embed(inputs.views)
        terms = hardest_negative_loss(embedded.a, embedded.b, self.settings.margin)
        return terms | {
            "embedding_std": spread_of_directions(embedded.a, embedded.b),
            "features": embedded.features,
        }


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
