"""VICReg's variance and covariance terms, for any method's embeddings: value, and gradient of the rank's own rows.

Source: VICReg paper, section 4.1 (equations 1 to 4); in other methods section 5.1 and Table 4.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional

from vicreg.losses.contrastive import at_least_float32
from vicreg.losses.covariance import FORMS
from vicreg.losses.forms import DEFAULT_SPEEDS, FormCost, cheapest, covariance_costs
from vicreg.losses.settings import SpreadConfig
from vicreg.ranks import distributed

EPSILON = 1e-4  # added to each variance before the root (paper, equation 1)


def regularise(
    z: Tensor, grad: Tensor, variance_weight: float, covariance_weight: float, form: str, target_std: float = 1.0
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Variance hinge, covariance term, mean std and effective rank of a branch (n x D); adds to its gradient.

    The gradient is that of the weighted terms, of which the values are unweighted. `form`: one of `covariance.FORMS`.
    """
    rows, dims = z.shape
    total = rows * distributed.world_size()
    centred = z - distributed.sum_over_ranks(z.sum(0)) / total
    variance = distributed.sum_over_ranks(torch.linalg.vector_norm(centred, dim=0).square()) / (total - 1)
    std = (variance + EPSILON * target_std**2).sqrt()
    hinge = (target_std - std).clamp_min(0).mean()
    grad.addcmul_(centred, (std < target_std) / std, value=-variance_weight / (dims * (total - 1)))
    scale = covariance_weight * 4.0 / (dims * (total - 1))
    squares = FORMS[form](centred, variance, total, grad, scale)
    covariance = (squares - variance.double().square().sum()) / dims
    return hinge, covariance.to(z.dtype), std.mean(), _participation_ratio(variance, squares)


def _participation_ratio(variance: Tensor, squares: Tensor) -> Tensor:
    """(trace C)^2 / ||C||_F^2 from the variances and the sum of all squared entries of C; 0 where all rows are equal.

    In terms of C's eigenvalues (sum l)^2 / sum l^2: d where d directions have equal variance and the others none, so
    at most min(N - 1, D). Source: Rajan, Abbott, Sompolinsky, NeurIPS 2010 (N_eff); Gao et al., bioRxiv 214262, 2017
    (participation ratio). It is not Roy and Vetterli's effective rank (the exponential of the spectrum's entropy),
    which needs the eigenvalues themselves.
    """
    ratio = variance.double().sum().square() / squares
    return torch.where(squares > 0, ratio, 0.0).to(variance.dtype)


def chosen_form(form: str, z: Tensor) -> str:
    """The form of the covariance term for a rank's rows: the one asked for, or the cheapest with usual speeds."""
    if form != "auto":
        return form
    ranks = distributed.world_size()
    costs = covariance_costs(len(z) * ranks, z.shape[1], ranks)
    return cheapest(costs, ranks, DEFAULT_SPEEDS[z.device.type])


class _Spread(Function):
    """Both branches' weighted terms, and the parts."""

    @staticmethod
    def forward(
        ctx: Any, a: Tensor, b: Tensor, weights: tuple[float, float], form: str, target_std: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        gradients = torch.zeros_like(a), torch.zeros_like(b)
        branches = [regularise(z, g, *weights, form, target_std) for z, g in zip((a, b), gradients, strict=True)]
        variance, covariance, _, rank = (first + second for first, second in zip(*branches, strict=True))
        ctx.save_for_backward(*gradients)
        ctx.mark_non_differentiable(variance, covariance, rank)
        return weights[0] * variance + weights[1] * covariance, variance, covariance, rank / 2

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        grad_a, grad_b = ctx.saved_tensors
        return grad_a.mul_(grad), grad_b.mul_(grad), None, None, None


def add_spread(
    terms: dict[str, Tensor], a: Tensor, b: Tensor, config: SpreadConfig, form: str = "auto"
) -> dict[str, Tensor]:
    """A method's terms with VICReg's two, of both views' embeddings (n x D each on every rank), added to its "loss".

    Without weights they are returned as they are; else with "variance", "covariance" (unweighted, the sum of both
    views') and "effective_rank" (mean of both).
    """
    if not (config.variance_weight or config.covariance_weight):
        return terms
    with torch.autocast(a.device.type, enabled=False):
        a, b, target = at_least_float32(a), at_least_float32(b), 1.0
        if config.spread_of == "normalised":
            a, b, target = functional.normalize(a), functional.normalize(b), a.shape[1] ** -0.5
        weights = config.variance_weight, config.covariance_weight
        loss, *parts = _Spread.apply(a, b, weights, chosen_form(form, a), target)
        named = dict(zip(("variance", "covariance", "effective_rank"), parts, strict=True))
        return terms | {"loss": terms["loss"] + loss} | named


def spread_costs(config: SpreadConfig, total: int, dims: int, ranks: int, size: int) -> dict[str, FormCost]:
    """What the covariance term takes where it has a weight; else nothing to speak of."""
    if config.covariance_weight or config.variance_weight:
        return covariance_costs(total, dims, ranks, size)
    return {"rows": FormCost(0.0, 0.0, 0.0, 2)}
