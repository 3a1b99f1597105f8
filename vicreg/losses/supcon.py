"""The supervised contrastive loss of the global batch, exact on any number of ranks in value and gradient.

Source: Khosla et al., NeurIPS 2020, equation 2 (L_out). With s_ij = z_i z_j / T over all rows of all views and the
positives P(i), the other rows of i's class: the mean over i of log sum_(j != i) exp s_ij - mean_(p in P(i)) s_ip.
The matrix of similarities is symmetric, so what row i does to j is known to j's rank as soon as it knows i's
denominator: the ranks exchange rows and denominators, and each writes down the gradient of its own rows in the forward
pass, some rows at a time.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from vicreg.losses.forms import FormCost, block_of, ring_sum_bytes
from vicreg.losses.written_gradient import full_precision, with_gradient
from vicreg.ranks import distributed


def supcon_loss(z: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """The loss () of this rank's rows z (n, D), of unit length, with their classes (n,); each class twice or more."""
    with torch.autocast(z.device.type, enabled=False):
        z = full_precision(z)
        value, gradient = _value_and_gradient(z.detach(), labels, temperature)
        return with_gradient(value, [z], [gradient])


def _value_and_gradient(z: Tensor, labels: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    everyone, classes = distributed.gather_rows(z), distributed.gather_rows(labels)
    total = len(everyone)
    denominators, num_positives, losses = z.new_empty(len(z)), z.new_empty(len(z)), z.new_empty(len(z))
    for rows, similarities, alike in _blocks(z, labels, everyone, classes, temperature):
        denominators[rows] = similarities.logsumexp(1)
        num_positives[rows] = alike.sum(1).to(z.dtype)
        of_positives = similarities.where(alike, similarities.new_zeros(())).sum(1)
        losses[rows] = denominators[rows] - of_positives / num_positives[rows]
    value = distributed.sum_over_ranks(losses.sum()) / total
    all_denominators, all_positives = distributed.gather_rows(torch.stack([denominators, num_positives], 1)).unbind(1)
    gradient = torch.empty_like(z)
    for rows, similarities, alike in _blocks(z, labels, everyone, classes, temperature):
        pull = 1 / num_positives[rows, None] + 1 / all_positives
        push = (similarities - denominators[rows, None]).exp() + (similarities - all_denominators).exp()
        gradient[rows] = (push - pull.where(alike, pull.new_zeros(()))) @ everyone
    return value, gradient.mul_(1 / (temperature * total))


def _blocks(
    z: Tensor, labels: Tensor, everyone: Tensor, classes: Tensor, temperature: float
) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Some own rows at a time: which, their similarities to all (-inf to themselves), and who is of their class."""
    offset = distributed.rank() * len(z)
    block = block_of(len(everyone))
    for start in range(0, len(z), block):
        rows = slice(start, min(start + block, len(z)))
        itself = torch.arange(rows.start, rows.stop, device=z.device)[:, None] + offset
        others = torch.arange(len(everyone), device=z.device) != itself
        similarities = (z[rows] @ everyone.T / temperature).masked_fill(~others, -torch.inf)
        yield rows, similarities, (labels[rows, None] == classes) & others


def supcon_cost(total: int, dims: int, ranks: int, size: int) -> FormCost:
    """What it takes on one rank for N x D rows of `size` bytes an entry."""
    rows = total / ranks
    part = min(block_of(total), rows) * total
    return FormCost(
        flops=3 * 2 * rows * total * dims,
        memory_bytes=(total * dims * size if ranks > 1 else 0) + part * (3 * size + 2),
        sent_bytes=(ranks - 1) / ranks * total * (dims * size + 2 * size + 8) + ring_sum_bytes(size, ranks),
        num_collectives=4,
    )
