"""Cross-entropies of similarities, exact on any number of ranks, without a matrix of them that is kept.

Two kinds. `nt_xent_loss` contrasts the rows of a global batch with each other: SimCLR's NT-Xent (Chen, Kornblith,
Norouzi, Hinton, ICML 2020, equation 1), and with labels the supervised one (Khosla et al., NeurIPS 2020, L_out).
`queue_loss` contrasts queries with keys that have no gradient: MoCo's InfoNCE (He et al., CVPR 2020, equation 1).

Similarities are made some rows at a time. As they are at most 1 / T, exp(s - 1 / T) needs no row's maximum, and the one
block gives a row's sum, its probabilities and the gradient, which each rank writes down for its own rows in the forward
pass. Ranks exchange their rows and one number a row; the backward pass sends nothing. Statistics are float32 or better.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional

from vicreg.losses.forms import FormCost, block_of
from vicreg.losses.settings import require_temperature
from vicreg.ranks import distributed


class _Contrast(Function):
    """Each of the global batch's rows against all others: loss and mean similarity of what belongs together.

    Rows (m x D on a rank) are of length 1; without labels the first half's i-th row belongs to the second half's.
    """

    @staticmethod
    def forward(
        ctx: Any, own: Tensor, labels: Tensor | None, temperature: float, factor: float
    ) -> tuple[Tensor, Tensor]:
        count, total = len(own), len(own) * distributed.world_size()
        everyone = distributed.gather_rows(own)
        company = _company(own, everyone, labels)
        first = distributed.rank() * count  # of the own rows among everybody's
        block = _rows_at_a_time(total, own.device)
        blocks = [slice(begin, min(begin + block, count)) for begin in range(0, count, block)]
        sums, entries = own.new_empty(count), own.new_empty(0)
        for rows in blocks:
            entries = _exponentials(own[rows], everyone, temperature, first + rows.start)
            sums[rows] = entries.sum(1)
        inverse, grad = 1 / distributed.gather_rows(sums), torch.empty_like(own)
        for rows in blocks:
            if len(blocks) > 1:
                entries = _exponentials(own[rows], everyone, temperature, first + rows.start)
            # A row as the one that asks, and as what others are compared with: similarities are the same both ways.
            weights = inverse[first + rows.start : first + rows.stop, None] + inverse
            torch.mm(entries.mul_(weights), everyone, out=grad[rows])
        # The same both ways here too: rows that belong together have equally many others.
        grad.sub_(company, alpha=2).mul_(factor / (total * temperature))
        together = (own * company).sum(1)
        means = torch.stack([(sums.log() + (1 - together) / temperature).sum(), together.sum()])
        loss, similarity = (distributed.sum_over_ranks(means) / total).unbind()
        ctx.save_for_backward(grad)
        ctx.mark_non_differentiable(similarity)
        return factor * loss, similarity

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor, None, None, None]:
        (own,) = ctx.saved_tensors
        return own.mul_(grad), None, None, None


def _company(own: Tensor, everyone: Tensor, labels: Tensor | None) -> Tensor:
    """For each row the mean of those that it belongs to: of its label, but for itself; without labels its partner."""
    if labels is None:
        return own.roll(len(own) // 2, 0)
    of_everyone = distributed.gather_rows(labels)
    place = torch.searchsorted(of_everyone.sort().values, of_everyone)  # one for each label; how many is not asked
    counts = torch.zeros_like(place).index_add_(0, place, torch.ones_like(place))
    sums = torch.zeros_like(everyone).index_add_(0, place, everyone)
    mine = place[distributed.rank() * len(own) :][: len(own)]
    mean: Tensor = (sums[mine] - own) / (counts[mine, None] - 1)
    return mean


def _exponentials(rows: Tensor, everyone: Tensor, temperature: float, own: int) -> Tensor:
    """exp((similarity - 1) / T) of rows with everybody's (r x N); 0 for each with itself, which stands at `own`."""
    shift = rows.new_full((), -1 / temperature)
    entries = torch.addmm(shift, rows, everyone.T, alpha=1 / temperature).exp_()
    entries.diagonal(own).zero_()
    return entries


def _rows_at_a_time(total: int, device: torch.device) -> int:
    """A block of a quarter of the usual size stays in a CPU's cache; a GPU wants fewer and larger ones."""
    return block_of(total) if device.type == "cuda" else max(1, block_of(total) // 4)


def nt_xent_loss(
    a: Tensor, b: Tensor, temperature: float, factor: float = 1.0, labels: Tensor | None = None
) -> dict[str, Tensor]:
    """The mean over the 2N rows of both views of -log softmax(similarities with all others / T)[what belongs to it].

    a, b: embeddings n x D of two views on every rank, of any length: they are brought to length 1. factor: of the loss;
    2 where the two views' means are added, as in the official program. labels (n,): rows with the same label belong
    together, and the mean over them is taken outside the logarithm; without, only the two views of an image do.

    Returns "loss", with a gradient that can be taken once, and "positive_similarity" (mean cosine of what belongs
    together). Raises ValueError for differing shapes or where a temperature is too low to be added up.
    """
    if a.shape != b.shape or a.ndim != 2:
        raise ValueError(f"embeddings have shapes {tuple(a.shape)} and {tuple(b.shape)}, allowed: twice the same n x D")
    require_temperature(temperature)
    with torch.autocast(a.device.type, enabled=False):
        own = functional.normalize(at_least_float32(torch.cat([a, b])))
        both = None if labels is None else labels.repeat(2)
        return dict(zip(("loss", "positive_similarity"), _Contrast.apply(own, both, temperature, factor), strict=True))


class _AgainstKeys(Function):
    """Each query (n x D, of length 1) against its own key (n x D) and all of `others` (K x D)."""

    @staticmethod
    def forward(ctx: Any, queries: Tensor, keys: Tensor, others: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        count, total = len(queries), len(queries) * distributed.world_size()
        together = (queries * keys).sum(1)
        with_key = ((together - 1) / temperature).exp_()
        shift = queries.new_full((), -1 / temperature)
        sums, grad = with_key.clone(), torch.empty_like(queries)
        block = block_of(len(others))
        for begin in range(0, count, block):
            rows = slice(begin, begin + block)
            entries = torch.addmm(shift, queries[rows], others.T, alpha=1 / temperature).exp_()
            sums[rows] += entries.sum(1)
            torch.mm(entries, others, out=grad[rows])
        grad.div_(sums[:, None]).addcmul_(keys, (with_key / sums - 1)[:, None]).mul_(1 / (total * temperature))
        means = torch.stack([(sums.log() + (1 - together) / temperature).sum(), together.sum()])
        loss, similarity = (distributed.sum_over_ranks(means) / total).unbind()
        ctx.save_for_backward(grad)
        ctx.mark_non_differentiable(similarity)
        return loss, similarity

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor, None, None, None]:
        (own,) = ctx.saved_tensors
        return own.mul_(grad), None, None, None


def queue_loss(queries: Tensor, keys: Tensor, queue: Tensor, temperature: float) -> dict[str, Tensor]:
    """The mean over the global batch of -log softmax(similarities with the own key and the queue / T)[the own key].

    queries: n x D on every rank, of any length; keys: theirs, n x D, and queue: K x D, the same on every rank: of
    length 1 and without a gradient. Returns and raises as `nt_xent_loss`.
    """
    if queries.shape != keys.shape or queries.shape[1:] != queue.shape[1:]:
        shapes = ", ".join(str(tuple(t.shape)) for t in (queries, keys, queue))
        raise ValueError(f"queries, keys and queue have shapes {shapes}, allowed: n x D, n x D, K x D")
    require_temperature(temperature)
    with torch.autocast(queries.device.type, enabled=False):
        own = functional.normalize(at_least_float32(queries))
        terms = _AgainstKeys.apply(own, keys.detach().to(own.dtype), queue.to(own.dtype), temperature)
        return dict(zip(("loss", "positive_similarity"), terms, strict=True))


def at_least_float32(values: Tensor) -> Tensor:
    """Half precision as float32, anything else as it is."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def contrast_cost(rows: int, others: int, dims: int, ranks: int, size: int, *, twice: bool) -> FormCost:
    """What a rank's `rows` against `others` take; `twice` where these are the ranks' own rows, of one global batch."""
    block = min(block_of(others), rows)
    several = twice and block < rows  # then each block is made twice
    sent = (ranks - 1) / ranks * others * (dims + 1) * size if twice else 0.0
    return FormCost(
        flops=(6.0 if several else 4.0) * rows * others * dims,
        memory_bytes=(2.0 if twice else 1.0) * block * others * size + (others * dims * size if ranks > 1 else 0),
        sent_bytes=sent,
        num_collectives=3 if twice else 1,
    )
