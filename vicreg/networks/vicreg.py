"""VICReg (Bardes, Ponce, LeCun, ICLR 2022): variance, invariance and covariance of two branches' embeddings."""

from __future__ import annotations

from torch import Tensor

from vicreg.branches import Branches, say_branches
from vicreg.config import (
    PretrainConfig,
)
from vicreg.losses.forms import NUM_VIEWS, covariance_costs, ring_sum_bytes
from vicreg.losses.vicreg import vicreg_loss
from vicreg.method import Inputs, LossCost, Progress, TrainingData
from vicreg.methods.vicreg import Config

LOSS_PASSES = 12
"""Times that the loss reads or writes an embedding of each view beside its products: differences, means, gradients."""


class Vicreg(Branches):
    """Both views through their branches, then the three terms."""

    follows_progress = False

    def __init__(self, config: PretrainConfig, settings: Config) -> None:
        super().__init__(config)
        self.settings = settings

    def forward(self, inputs: Inputs, progress: Progress) -> dict[str, Tensor]:
        """See `Method`; the terms are `TERMS`."""
        embedded = self.embed(inputs.views)
        return vicreg_loss(embedded.a, embedded.b, self.settings) | {"features": embedded.features}


def build(config: PretrainConfig, data: TrainingData) -> Vicreg:
    """See `MethodFile`."""
    assert isinstance(config.method, Config)
    return Vicreg(config, config.method)


def networks(config: PretrainConfig) -> str:
    """See `MethodFile`."""
    return say_branches(config)


def loss_cost(config: PretrainConfig, ranks: int, size: int) -> LossCost:
    """See `MethodFile`. By its second branch the loss holds both embeddings, both gradients and the centred rows."""
    total, dims = config.train.global_batch, int(config.model.expander.split("-")[-1])
    own = total // ranks * dims
    return LossCost(
        title=f"covariance of {total} x {dims}",
        forms=covariance_costs(total, dims, ranks, size),
        held_bytes=5 * own * size,
        sent_bytes=ring_sum_bytes(NUM_VIEWS * 2 * dims * size + size, ranks),
        moved_bytes=LOSS_PASSES * NUM_VIEWS * own * size,
    )
