"""InfoNCE as in CLIP (Radford et al., ICML 2021): an image finds its caption, and the caption its image."""

from __future__ import annotations

from torch import Tensor

from vicreg.branches import Branches, say_branches
from vicreg.config import PretrainConfig
from vicreg.loss_costs import cross_modal_loss_cost
from vicreg.losses.cross_modal import both_ways_loss
from vicreg.losses.directions import spread_of_directions
from vicreg.method import Inputs, LossCost, Progress, TrainingData
from vicreg.methods.clip import Config


class Clip(Branches):
    """Both views through their branches, then InfoNCE both ways."""

    follows_progress = False

    def __init__(self, config: PretrainConfig, settings: Config) -> None:
        super().__init__(config)
        self.settings = settings

    def forward(self, inputs: Inputs, progress: Progress) -> dict[str, Tensor]:
        """See `Method`; the terms are `TERMS`."""
        embedded = self.embed(inputs.views)
        terms = both_ways_loss(embedded.a, embedded.b, self.settings.temperature)
        return terms | {
            "embedding_std": spread_of_directions(embedded.a, embedded.b),
            "features": embedded.features,
        }


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
