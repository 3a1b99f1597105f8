"""SwAV's two halves: assignments to prototypes by Sinkhorn's rounds over all ranks, and the prediction of them.

Source: Caron et al., NeurIPS 2020, equations 2 and 3, and `distributed_sinkhorn` of the official code. The rounds end
in rows that sum to 1, so neither the scale of the scores nor the numbers of rows and prototypes need to be divided out
in between: each round costs the ranks one sum of K numbers.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vicreg.losses.contrastive import at_least_float32
from vicreg.losses.forms import FormCost, block_of, ring_sum_bytes
from vicreg.losses.written_gradient import with_gradient
from vicreg.ranks import distributed


@torch.no_grad()
def sinkhorn(scores: Tensor, counts: Tensor, epsilon: float, num_rounds: int) -> Tensor:
    """Soft assignments (n, K) of own rows to prototypes, each row summing to 1, all prototypes used alike.

    scores: cosines (n, K). counts: (n,), 0 for rows that have no part in it, 1 for others.
    """
    q = (at_least_float32(scores) / epsilon).exp() * counts[:, None]
    smallest = torch.finfo(q.dtype).tiny
    for _ in range(num_rounds):
        q /= distributed.sum_over_ranks(q.sum(0)).clamp_min(smallest)
        q /= q.sum(1, keepdim=True).clamp_min(smallest)
    return q


def swapped_prediction(z: Tensor, prototypes: Tensor, assigned: Sequence[Tensor], temperature: float) -> Tensor:
    """The mean cross-entropy () of predicting each view's assignments from every other view, over the global batch.

    z: (V, n, D) rows of unit length of this rank. prototypes: (K, D). assigned: (n, K) of the first views, without
    gradient. The gradient of z and of the prototypes is that of own rows.
    """
    with torch.autocast(z.device.type, enabled=False):
        z, prototypes = at_least_float32(z), at_least_float32(prototypes)
        value, *gradients = _value_and_gradients(z.detach(), prototypes.detach(), assigned, temperature)
        return with_gradient(value, [z, prototypes], gradients)


def _value_and_gradients(
    z: Tensor, prototypes: Tensor, assigned: Sequence[Tensor], temperature: float
) -> tuple[Tensor, Tensor, Tensor]:
    num_views, rows, _ = z.shape
    share = 1 / (len(assigned) * (num_views - 1) * rows * distributed.world_size())
    value = z.new_zeros(())
    of_z, of_prototypes = torch.empty_like(z), torch.zeros_like(prototypes)
    block = block_of(len(prototypes))
    for view in range(num_views):
        others = [q for number, q in enumerate(assigned) if number != view]
        for start in range(0, rows, block):
            part = slice(start, start + block)
            target = torch.stack([q[part] for q in others]).sum(0)
            logs = (z[view, part] @ prototypes.T / temperature).log_softmax(1)
            value -= (target * logs).sum() * share
            of_scores = (logs.exp_() * len(others) - target).mul_(share / temperature)
            of_z[view, part] = of_scores @ prototypes
            of_prototypes.addmm_(of_scores.T, z[view, part])
    return distributed.sum_over_ranks(value), of_z, of_prototypes


def prototypes_cost(
    total: int, num_views: int, num_assigned: int, num_queued: int, num_prototypes: int, dims: int, ranks: int,
    num_rounds: int, size: int,
) -> FormCost:  # fmt: skip
    """What both take on one rank, for N x D embeddings of each view and as many more in each queue."""
    rows, queued = total / ranks, num_queued / ranks
    product = 2 * num_prototypes * dims
    return FormCost(
        flops=product * (3 * num_views * rows + num_assigned * (rows + queued)),
        memory_bytes=num_prototypes * size * (num_assigned * rows + 2 * (rows + queued) + 3 * rows),
        sent_bytes=num_assigned * num_rounds * ring_sum_bytes(num_prototypes * size, ranks)
        + (ranks - 1) / ranks * (num_assigned * total * dims * size if num_queued else 0),
        num_collectives=num_assigned * (num_rounds + bool(num_queued)) + 1,
    )
