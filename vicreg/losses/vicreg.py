"""Variance, invariance and covariance of the global batch, exact on any number of ranks in value and gradient.

Source: paper, section 4.1 (equations 1 to 6) and the official code's `VICReg.forward`. Two things differ in form, not
in value. The covariance term needs no D x D matrix (`covariance.py`). And the gradient of each rank's own rows is
written down and made in the forward pass, where all that it needs is at hand: the backward pass needs no communication,
and of all steps between only the two gradients are kept.
Statistics are float32 or better, outside autocast: half-precision sums of covariances overflow late in training.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from vicreg.losses.settings import VicregLossConfig
from vicreg.losses.variance_covariance import chosen_form, regularise
from vicreg.ranks import distributed


class _Loss(Function):
    """The weighted sum and its parts, in the order of `PARTS`; only the sum has a gradient, and only once."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, config: VicregLossConfig, form: str) -> tuple[Tensor, ...]:
        grad_a = a - b
        count = grad_a.numel() * distributed.world_size()
        invariance = distributed.sum_over_ranks(_square(grad_a)) / count
        grad_a.mul_(2.0 * config.invariance_weight / count)
        grad_b = grad_a.neg()
        first, second = _weights(config)
        of_a = regularise(a, grad_a, *first, form, config.target_std)
        of_b = regularise(b, grad_b, *second, form, config.target_std)
        variance, covariance, std, rank = (one + other for one, other in zip(of_a, of_b, strict=True))
        variance = variance * _share_of_variance(config)
        loss = (
            config.invariance_weight * invariance
            + config.variance_weight * variance
            + config.covariance_weight * covariance
            + (second[0] - first[0]) * of_b[0]
            + (second[1] - first[1]) * of_b[1]
        )
        ctx.save_for_backward(grad_a, grad_b)
        parts = (invariance, variance, covariance, std / 2, rank / 2)
        ctx.mark_non_differentiable(*parts)
        return loss, *parts

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor, Tensor, None, None]:
        # In place: these are all the memory that the loss keeps. Autograd refuses a second time by itself.
        grad_a, grad_b = ctx.saved_tensors
        return grad_a.mul_(grad), grad_b.mul_(grad), None, None


PARTS = ("loss", "invariance", "variance", "covariance", "embedding_std", "effective_rank")


def _weights(config: VicregLossConfig) -> tuple[tuple[float, float], tuple[float, float]]:
    """Weights of variance and covariance in each branch, of its own terms."""
    of_variance, of_covariance = config.variance_weight_b, config.covariance_weight_b
    of_variance = config.variance_weight if of_variance is None else of_variance
    of_covariance = config.covariance_weight if of_covariance is None else of_covariance
    share = _share_of_variance(config)
    return (share * config.variance_weight, config.covariance_weight), (share * of_variance, of_covariance)


def _share_of_variance(config: VicregLossConfig) -> float:
    return 0.5 if config.variance_reduction == "mean" else 1.0


def _square(values: Tensor) -> Tensor:
    """The sum of squares, without a copy of them."""
    flat = values.view(-1)
    return torch.dot(flat, flat)


def vicreg_loss(a: Tensor, b: Tensor, config: VicregLossConfig) -> dict[str, Tensor]:
    """The loss of two branches' embeddings, n x D each on every rank, with its terms apart.

    Returns "loss" (weighted sum), "invariance", "variance" and "covariance" (unweighted, of the global batch), and
    "embedding_std" (mean standard deviation over both branches and all dimensions; near 0 means collapse) and
    "effective_rank" (participation ratio of the global batch's covariance, mean over both branches: how many
    directions the embeddings use; near 1 means that they have collapsed to a line).
    Only "loss" has a gradient, and can be differentiated once. Its form is `config.form`; "auto" is the cheapest one
    with usual speeds. The variance terms of the branches are averaged ("mean", official code) or added ("sum", paper,
    equation 6).
    Raises ValueError when the shapes differ or the global batch has fewer than two rows.
    """
    if a.shape != b.shape or a.ndim != 2:
        raise ValueError(f"embeddings have shapes {tuple(a.shape)} and {tuple(b.shape)}, allowed: twice the same n x D")
    if len(a) * distributed.world_size() < 2:
        raise ValueError("the global batch has 1 row, allowed: 2 or more (the loss needs a variance)")
    with torch.autocast(a.device.type, enabled=False):
        if a.dtype in (torch.float16, torch.bfloat16):
            a, b = a.float(), b.float()
        return dict(zip(PARTS, _Loss.apply(a, b, config, chosen_form(config.form, a)), strict=True))
