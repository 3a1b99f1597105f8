"""LeJEPA (Balestriero and LeCun, arXiv 2511.08544): views agree, and embeddings are normally distributed (SIGReg)."""

from __future__ import annotations

import torch
from torch import Tensor

from vicreg.config import (
    PretrainConfig,
    require,
)
from vicreg.losses.contrastive import at_least_float32
from vicreg.losses.forms import ring_sum_bytes
from vicreg.losses.sigreg import directions, sigreg, sigreg_cost
from vicreg.losses.written_gradient import of_whole_batch
from vicreg.method import Inputs, LossCost, Progress, TrainingData
from vicreg.methods.sigreg import Config
from vicreg.one_network import OneNetwork
from vicreg.ranks import distributed


class Lejepa(OneNetwork):
    """All views through encoder and expander, then the two terms."""

    def __init__(self, config: PretrainConfig, settings: Config) -> None:
        super().__init__(config)
        require(self.num_views >= 2, "views", f"{self.num_views} of an image", "2 or more for sigreg")
        self.settings = settings
        self.seed = config.train.seed

    def forward(self, inputs: Inputs, progress: Progress) -> dict[str, Tensor]:
        """See `Method`; the terms are `TERMS`."""
        settings = self.settings
        embeddings, features = self.embed(inputs.views)
        z = at_least_float32(embeddings)
        onto = directions(z.shape[2], settings.num_directions, (self.seed << 32) + progress.step, z)
        agreement = of_whole_batch((z - z.mean(0)).square().sum() / (z.numel() * distributed.world_size()))
        regulariser = sigreg(z, onto, settings.num_knots, settings.largest_t)
        loss = (1 - settings.regulariser_weight) * agreement + settings.regulariser_weight * regulariser
        return {
            "loss": loss,
            "agreement": agreement.detach(),
            "regulariser": regulariser.detach(),
            "embedding_std": _mean_std(z.detach()),
            "features": features,
        }


def _mean_std(z: Tensor) -> Tensor:
    """Mean standard deviation of the dimensions over the global batch's views (V, n, D)."""
    rows = z.flatten(0, 1)
    sums = distributed.sum_over_ranks(torch.stack([rows.sum(0), rows.square().sum(0)]))
    mean, square = sums / (len(rows) * distributed.world_size())
    result: Tensor = (square - mean.square()).clamp_min(0).sqrt().mean()
    return result


def build(config: PretrainConfig, data: TrainingData) -> Lejepa:
    """See `MethodFile`."""
    assert isinstance(config.method, Config)
    return Lejepa(config, config.method)


def networks(config: PretrainConfig) -> str:
    """See `MethodFile`."""
    return f"{config.model.encoder}, expander {config.model.expander}"


def loss_cost(config: PretrainConfig, ranks: int, size: int) -> LossCost:
    """See `MethodFile`."""
    settings = config.method
    assert isinstance(settings, Config)
    total, views = config.train.global_batch, len(config.each_view)
    dims = int(config.model.expander.split("-")[-1])
    only = sigreg_cost(total, views, dims, settings.num_directions, settings.num_knots, ranks, size)
    own = total // ranks * views * dims * size
    title = f"{views} x {total} x {dims} on {settings.num_directions} directions"
    return LossCost(title, {"only": only}, 3 * own, ring_sum_bytes(2 * dims * size, ranks), 6 * own)
