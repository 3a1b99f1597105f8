"""What the losses that several methods have take on one rank in one step: their `loss_cost` (see `MethodFile`)."""

from __future__ import annotations

from vicreg.config import PretrainConfig
from vicreg.losses.contrastive import contrast_cost
from vicreg.losses.cross_modal import cross_modal_cost
from vicreg.losses.forms import NUM_VIEWS, ring_sum_bytes
from vicreg.losses.settings import SpreadConfig
from vicreg.losses.variance_covariance import spread_costs
from vicreg.method import LossCost


def cosines_cost(config: PretrainConfig, ranks: int, size: int, kept: int) -> LossCost:
    """Cosines of both views' predictions and targets (BYOL, SimSiam), `kept` values for each entry of an embedding."""
    assert isinstance(config.method, SpreadConfig)
    total, dims = config.train.global_batch, int(config.model.expander.split("-")[-1])
    own = NUM_VIEWS * total // ranks * dims * size
    return LossCost(
        title=f"cosines of {total} x {dims}",
        forms=spread_costs(config.method, total, dims, ranks, size),
        held_bytes=kept * own,
        sent_bytes=0.0,
        moved_bytes=8 * own,  # lengths, cosines, gradients
    )


def nt_xent_cost(config: PretrainConfig, ranks: int, size: int) -> LossCost:
    """Similarities of all embeddings of two views (SimCLR, SupCon), for which the ranks gather them.

    Kept are embeddings, the same at length 1, what belongs to them, and their gradients.
    """
    total, dims = NUM_VIEWS * config.train.global_batch, int(config.model.expander.split("-")[-1])
    own = total // ranks * dims * size
    return LossCost(
        title=f"similarities of {total} x {dims}",
        forms={"rows": contrast_cost(total // ranks, total, dims, ranks, size, twice=True)},
        held_bytes=6 * own,
        sent_bytes=ring_sum_bytes(2 * dims * size, ranks),  # for the spread of directions
        moved_bytes=12 * own,  # lengths, company, gradients
    )


def cross_modal_loss_cost(config: PretrainConfig, ranks: int, size: int) -> LossCost:
    """Cosines of all rows of one branch with all of the other (VSE++, CLIP), for which the ranks gather them."""
    total, dims = config.train.global_batch, int(config.model.expander.split("-")[-1])
    own = NUM_VIEWS * total // ranks * dims * size
    return LossCost(
        title=f"cosines of {total} x {total}",
        forms={"rows": cross_modal_cost(total, dims, ranks, size)},
        held_bytes=4 * own,
        sent_bytes=ring_sum_bytes(2 * dims * size, ranks),  # for the spread of directions
        moved_bytes=8 * own,
    )
