"""SupCon (Khosla et al., NeurIPS 2020): views of one class attract each other, all others repel."""

from __future__ import annotations

from torch import Tensor

from vicreg.config import (
    PretrainConfig,
    require,
)
from vicreg.loss_costs import nt_xent_cost
from vicreg.losses.contrastive import nt_xent_loss
from vicreg.losses.directions import spread_of_directions
from vicreg.losses.forms import NUM_VIEWS
from vicreg.method import Inputs, LossCost, Progress, TrainingData
from vicreg.methods.supcon import Config
from vicreg.one_network import OneNetwork


class SupCon(OneNetwork):
    """Two views of each image at once through encoder and expander, then the loss over all of them."""

    follows_progress = False

    def __init__(self, config: PretrainConfig, settings: Config) -> None:
        super().__init__(config)
        require(self.num_views == NUM_VIEWS, "views", f"{self.num_views} of an image", f"{NUM_VIEWS} for supcon")
        self.settings = settings

    def forward(self, inputs: Inputs, progress: Progress) -> dict[str, Tensor]:
        """See `Method`; the terms are `TERMS`."""
        embeddings, features = self.embed(inputs.views)
        terms = nt_xent_loss(embeddings[0], embeddings[1], self.settings.temperature, labels=inputs.labels)
        return terms | {"embedding_std": spread_of_directions(*embeddings.detach()), "features": features}


def build(config: PretrainConfig, data: TrainingData) -> SupCon:
    """See `MethodFile`; ValueError where the data have no classes."""
    assert isinstance(config.method, Config)
    data.require_classes(config.method.name)
    return SupCon(config, config.method)


def networks(config: PretrainConfig) -> str:
    """See `MethodFile`."""
    return f"{config.model.encoder}, expander {config.model.expander}"


def loss_cost(config: PretrainConfig, ranks: int, size: int) -> LossCost:
    """See `MethodFile`."""
    return nt_xent_cost(config, ranks, size)
