"""SIGReg, which draws embeddings towards a standard normal distribution, exact on any number of ranks.

Source: Balestriero and LeCun, LeJEPA, arXiv 2511.08544, and its minimal example. Embeddings are projected on random
directions, and in each the empirical characteristic function is compared with that of N(0, 1) at the knots t_k = k dt,
k = 0 .. K - 1 (Epps and Pulley's statistic, by the trapezoidal rule, weighted by exp(-t^2 / 2)). The ranks add up two
numbers per direction and knot. The knots are equidistant, so cos(t_k x) and sin(t_k x) follow from those of dt x by a
rotation: two transcendental functions per projected value instead of two for every knot; and the gradient is written
down in the forward pass, one knot at a time, where torch would keep all of them.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from vicreg.losses.contrastive import at_least_float32
from vicreg.losses.forms import FormCost, ring_sum_bytes
from vicreg.losses.written_gradient import with_gradient
from vicreg.ranks import distributed


def directions(dims: int, number: int, seed: int, like: Tensor) -> Tensor:
    """Random directions (D, M) of unit length, the same on every rank that gives the same seed."""
    generator = torch.Generator(like.device).manual_seed(seed)
    drawn = torch.randn(dims, number, generator=generator, device=like.device, dtype=torch.float32)
    return drawn.div_(drawn.norm(dim=0)).to(like.dtype)


def sigreg(z: Tensor, onto: Tensor, num_knots: int, largest_t: float) -> Tensor:
    """The mean statistic () over views and directions, for embeddings z (V, n, D) of this rank and directions (D, M).

    Every view of the global batch is compared for itself; 0 at best, and about N times the squared distance of the
    characteristic functions.
    """
    with torch.autocast(z.device.type, enabled=False):
        z = at_least_float32(z)
        value, gradient = _value_and_gradient(z.detach(), onto, num_knots, largest_t)
        return with_gradient(value, [z], [gradient])


def _value_and_gradient(z: Tensor, onto: Tensor, num_knots: int, largest_t: float) -> tuple[Tensor, Tensor]:
    num_views, rows, _ = z.shape
    total, step = rows * distributed.world_size(), largest_t / (num_knots - 1)
    knots = torch.arange(num_knots, dtype=torch.float64) * step
    weights = torch.full_like(knots, 2 * step) * (-knots.square() / 2).exp()
    weights[0] /= 2
    weights[-1] /= 2
    turn = torch.view_as_complex(torch.stack([torch.cos(z @ onto * step), torch.sin(z @ onto * step)], -1))
    sums = torch.stack([power.sum(1) for power in _powers(turn, num_knots)])
    means = torch.view_as_complex(distributed.sum_over_ranks(torch.view_as_real(sums).contiguous())) / total
    normal = (-knots.square() / 2).exp().to(z)
    apart = means - normal[:, None, None]
    share = 1 / (num_views * onto.shape[1])
    errors = apart.real.square() + apart.imag.square()
    value = (errors * weights.to(z)[:, None, None]).sum() * (total * share)
    of_projections = torch.zeros_like(turn.real)
    scales = (2 * share * weights * knots).tolist()
    for power, difference, scale in zip(_powers(turn, num_knots), apart, scales, strict=True):
        # d/dx of |mean exp(i t x) - phi|^2 is 2 t / N Re(conj(difference) i exp(i t x)); times N of the statistic
        of_projections.add_((difference.conj()[:, None] * power).imag, alpha=-scale)
    return value, of_projections @ onto.T


def _powers(turn: Tensor, number: int) -> Iterator[Tensor]:
    """1, turn, turn^2, ..., each good until the next is asked for."""
    power = torch.ones_like(turn)
    for _ in range(number):
        yield power
        power.mul_(turn)


def sigreg_cost(total: int, num_views: int, dims: int, number: int, num_knots: int, ranks: int, size: int) -> FormCost:
    """What it takes on one rank for V times N x D embeddings and so many directions."""
    projected = num_views * total / ranks * number
    return FormCost(
        flops=2 * 2 * projected * dims,
        memory_bytes=8 * projected * size,
        sent_bytes=ring_sum_bytes(2 * num_views * number * num_knots * size, ranks),
        num_collectives=1,
    )
