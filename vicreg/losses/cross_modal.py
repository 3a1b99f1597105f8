"""Losses that tell what belongs together from all else of the global batch, each branch among the other's rows alone.

Every rank has everybody's rows, of which its own bear the gradient: value and gradient of the own rows are those of the
global batch, and the backward pass sends nothing. Statistics are float32 or better.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from vicreg.losses.contrastive import at_least_float32
from vicreg.losses.forms import FormCost
from vicreg.losses.settings import require_temperature
from vicreg.ranks import distributed


def hardest_negative_loss(a: Tensor, b: Tensor, margin: float) -> dict[str, Tensor]:
    """VSE++ (Faghri et al., BMVC 2018, equation 6): of each row the hinge on its hardest negative, both ways, summed.

    With cosines s of row i of `a` and j of `b` (n x D each on every rank, of any length): the sum over the global batch
    of max over j != i of [margin + s(i, j) - s(i, i)]+ and of max over j != i of [margin + s(j, i) - s(i, i)]+.

    Returns "loss", "positive_similarity" (mean cosine of what belongs together) and "violations" (share of the rows, of
    both ways, whose hinge is open). Raises ValueError for differing shapes or a global batch of one row.
    """
    with torch.autocast(a.device.type, enabled=False):
        cosines = _cosines(a, b)
        own = cosines.diagonal()
        negatives = cosines.masked_fill(torch.eye(len(own), dtype=torch.bool, device=own.device), -torch.inf)
        hinges = torch.stack([(margin + negatives.max(way).values - own).clamp_min(0) for way in (1, 0)])
        open_ones = (hinges.detach() > 0).to(own.dtype).mean()
        return {"loss": hinges.sum(), "positive_similarity": own.detach().mean(), "violations": open_ones}


def both_ways_loss(a: Tensor, b: Tensor, temperature: float) -> dict[str, Tensor]:
    """InfoNCE as in CLIP (Radford et al., ICML 2021, figure 3): cross-entropy of finding b's row by a's and back, mean.

    Takes and raises as `hardest_negative_loss`; returns "loss" and "positive_similarity".
    """
    require_temperature(temperature)
    with torch.autocast(a.device.type, enabled=False):
        cosines = _cosines(a, b)
        right = torch.arange(len(cosines), device=cosines.device)
        ways = [functional.cross_entropy(scores / temperature, right) for scores in (cosines, cosines.T)]
        return {"loss": (ways[0] + ways[1]) / 2, "positive_similarity": cosines.diagonal().detach().mean()}


def _cosines(a: Tensor, b: Tensor) -> Tensor:
    """Of everybody's rows of `a` with everybody's of `b` (N x N)."""
    if a.shape != b.shape or a.ndim != 2:
        raise ValueError(f"embeddings have shapes {tuple(a.shape)} and {tuple(b.shape)}, allowed: twice the same n x D")
    if len(a) * distributed.world_size() < 2:
        raise ValueError("the global batch has 1 row, allowed: 2 or more (a row is told from others)")
    units = [_of_all_ranks(functional.normalize(at_least_float32(rows))) for rows in (a, b)]
    return units[0] @ units[1].T


def _of_all_ranks(own: Tensor) -> Tensor:
    """Everybody's rows, of which the own have a gradient."""
    rows = distributed.gather_rows(own.detach())
    first = distributed.rank() * len(own)
    return torch.cat([rows[:first], own, rows[first + len(own) :]])


def cross_modal_cost(total: int, dims: int, ranks: int, size: int) -> FormCost:
    """What a rank takes: all cosines, the gradient of its own rows, and the cosines and their gradient in memory."""
    own = total // ranks
    return FormCost(
        flops=2.0 * total * total * dims + 4.0 * own * total * dims,
        memory_bytes=(4.0 * total * total + 2.0 * total * dims) * size,
        sent_bytes=(ranks - 1) / ranks * 2 * total * dims * size,
        num_collectives=2,
    )
