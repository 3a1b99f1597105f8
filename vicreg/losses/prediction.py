"""Predictions told from everybody's patches (InfoNCE), exact on any number of ranks in value and gradient.

Source: van den Oord, Li, Vinyals, arXiv 1807.03748, equation 4; Henaff et al., ICML 2020, equation 2. The candidates of
each prediction are all patches of the global batch, and they learn too. Ranks exchange the patches once, and once the
sum of what all predictions do to them; similarities are made some rows at a time and never kept.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vicreg.losses.contrastive import at_least_float32
from vicreg.losses.forms import FormCost, block_of, ring_sum_bytes
from vicreg.losses.written_gradient import with_gradient
from vicreg.ranks import distributed


def prediction_loss(predicted: Tensor, patches: Tensor, answers: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy () of each prediction (Q, D) with the global batch's patches, and the share that is right ().

    patches: (m, D) of this rank, as many on each. answers: (Q,) which of them each prediction is of. scale: what the
    inner products are multiplied by. Only the first has a gradient, that of own rows, and once.
    """
    with torch.autocast(predicted.device.type, enabled=False):
        predicted, patches = at_least_float32(predicted), at_least_float32(patches)
        value, right, *gradients = _made(predicted.detach(), patches.detach(), answers, scale)
        return with_gradient(value, [predicted, patches], gradients), right


def _made(predicted: Tensor, patches: Tensor, answers: Tensor, scale: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    everyone, own = distributed.gather_rows(patches), distributed.rank() * len(patches)
    total = len(predicted) * distributed.world_size()
    sums = predicted.new_zeros(2)  # losses, right ones
    of_predicted, of_everyone = torch.empty_like(predicted), torch.zeros_like(everyone)
    block = block_of(len(everyone))
    for start in range(0, len(predicted), block):
        rows = slice(start, start + block)
        places = (answers[rows] + own)[:, None]
        scores = predicted[rows] @ everyone.T * scale
        sums[1] += (scores.argmax(1, keepdim=True) == places).sum()
        logs = scores.log_softmax(1)
        sums[0] -= logs.gather(1, places).sum()
        of_scores = logs.exp_().scatter_add_(1, places, torch.full_like(places, -1, dtype=logs.dtype))
        of_predicted[rows] = of_scores @ everyone
        of_everyone.addmm_(of_scores.T, predicted[rows])
    loss, right = (distributed.sum_over_ranks(sums) / total).unbind()
    of_patches = distributed.sum_over_ranks(of_everyone)[own : own + len(patches)]
    return loss, right, of_predicted.mul_(scale / total), of_patches * (scale / total)


def prediction_cost(predictions: int, patches: int, dims: int, ranks: int, size: int) -> FormCost:
    """What it takes on one rank for so many predictions and patches of the global batch."""
    block = min(block_of(patches), predictions // ranks)
    everyone = patches * dims * size
    return FormCost(
        flops=3 * 2 * predictions / ranks * patches * dims,
        memory_bytes=2 * everyone + 3 * block * patches * size,
        sent_bytes=(ranks - 1) / ranks * everyone + ring_sum_bytes(everyone + 2 * size, ranks),
        num_collectives=3,
    )
