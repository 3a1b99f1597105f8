"""Barlow Twins (Zbontar, Jing, Misra, LeCun, Deny, ICML 2021): the two branches' cross-correlation towards identity."""

from __future__ import annotations

from torch import Tensor

from vicreg.branches import Branches, say_branches
from vicreg.config import (
    PretrainConfig,
)
from vicreg.losses.barlow_twins import barlow_twins_loss
from vicreg.losses.forms import NUM_VIEWS, FormCost, correlation_costs, ring_sum_bytes
from vicreg.losses.variance_covariance import add_spread, spread_costs
from vicreg.method import Inputs, LossCost, ParameterGroup, Progress, TrainingData
from vicreg.methods.barlow_twins import Config

LOSS_PASSES = 14
"""Times that the loss reads or writes an embedding of each view beside its products: a batch norm, both ways."""


class BarlowTwins(Branches):
    """Both views through their branches, then the loss; the expander's layers have no biases as published."""

    follows_progress = False

    def __init__(self, config: PretrainConfig, settings: Config) -> None:
        super().__init__(config)
        self.settings = settings

    def forward(self, inputs: Inputs, progress: Progress) -> dict[str, Tensor]:
        """See `Method`; the terms are `TERMS`."""
        embedded = self.embed(inputs.views)
        terms = barlow_twins_loss(embedded.a, embedded.b, self.settings)
        terms = add_spread(terms, embedded.a, embedded.b, self.settings, self.settings.form)
        return terms | {"features": embedded.features}

    def parameter_groups(self) -> list[ParameterGroup]:
        """Biases and batch norm at a rate of their own."""
        return self.learned_groups(self.settings.bias_rate_factor)


def build(config: PretrainConfig, data: TrainingData) -> BarlowTwins:
    """See `MethodFile`."""
    assert isinstance(config.method, Config)
    return BarlowTwins(config, config.method)


def networks(config: PretrainConfig) -> str:
    """See `MethodFile`."""
    return say_branches(config)


def loss_cost(config: PretrainConfig, ranks: int, size: int) -> LossCost:
    """See `MethodFile`. At the end both embeddings are held, both as standardised, and both gradients."""
    assert isinstance(config.method, Config)
    total, dims = config.train.global_batch, int(config.model.expander.split("-")[-1])
    own = total // ranks * dims
    beside = spread_costs(config.method, total, dims, ranks, size)
    nothing = FormCost(0.0, 0.0, 0.0, 0)
    return LossCost(
        title=f"cross-correlation of {total} x {dims}",
        forms={
            form: cost.followed_by(beside.get(form, nothing))
            for form, cost in correlation_costs(total, dims, ranks, size).items()
        },
        held_bytes=7 * own * size,
        sent_bytes=ring_sum_bytes((NUM_VIEWS * 4 + 1) * dims * size, ranks),
        moved_bytes=LOSS_PASSES * NUM_VIEWS * own * size,
    )
