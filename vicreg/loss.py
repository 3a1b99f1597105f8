"""Variance, invariance and covariance of the global batch, exact on any number of ranks in value and gradient.

Source: paper, section 4.1 (equations 1 to 6) and the official code's `VICReg.forward`. Two things differ in form, not
in value. The covariance term needs no D x D matrix: with Z centred (N x D), C = Zt Z / (N - 1) and
K = Z Zt / (N - 1), the sums of squared entries of C and of K are equal, so the cheaper of the two is built. And the
gradient of each rank's own rows is written down, so that the backward pass needs no communication.
Statistics are float32 or better, outside autocast: half-precision sums of covariances overflow late in training.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from vicreg import distributed
from vicreg.config import LossConfig

EPSILON = 1e-4  # added to each variance before the root (paper, equation 1)
TARGET_STD = 1.0  # gamma of the hinge (paper, equation 1)


class _Invariance(Function):
    """Mean squared distance over the global batch; only this rank's rows have a gradient here."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        difference = a - b
        count = difference.numel() * distributed.world_size()
        ctx.save_for_backward(difference)
        ctx.scale = 2.0 / count
        return distributed.sum_over_ranks(difference.square().sum()) / count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        (difference,) = ctx.saved_tensors
        grad_a = difference * (grad * ctx.scale)
        return grad_a, -grad_a


class _Regularisers(Function):
    """Variance hinge and covariance term of one branch (n x D rows of this rank); its mean std and effective rank."""

    @staticmethod
    def forward(ctx: Any, z: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        rows, dims = z.shape
        total = rows * distributed.world_size()
        centred = z - distributed.sum_over_ranks(z.sum(0)) / total
        variance = distributed.sum_over_ranks(centred.square().sum(0)) / (total - 1)
        std = (variance + EPSILON).sqrt()
        hinge = (TARGET_STD - std).clamp_min(0).mean()
        variance_slope = -((std < TARGET_STD).to(z.dtype) / (std * (dims * (total - 1))))
        form = _covariance_by_samples if total < dims else _covariance_by_dimensions
        covariance, covariance_grad, squares = form(centred, variance, total)
        ctx.save_for_backward(centred, variance_slope, covariance_grad)
        mean_std = std.mean()
        rank = _participation_ratio(variance, squares)
        ctx.mark_non_differentiable(mean_std, rank)
        return hinge, covariance, mean_std, rank

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_hinge: Tensor, grad_covariance: Tensor, *_: Tensor) -> Tensor:
        centred, variance_slope, covariance_grad = ctx.saved_tensors
        grad: Tensor = centred * (variance_slope * grad_hinge)
        return grad.addcmul_(covariance_grad, grad_covariance.expand_as(covariance_grad))


def _participation_ratio(variance: Tensor, squares: Tensor) -> Tensor:
    """(trace C)^2 / ||C||_F^2 from the variances and the sum of all squared entries of C; 0 where all rows are equal.

    In terms of C's eigenvalues (sum l)^2 / sum l^2: d where d directions have equal variance and the others none, so
    at most min(N - 1, D). Source: Rajan, Abbott, Sompolinsky, NeurIPS 2010 (N_eff); Gao et al., bioRxiv 214262, 2017
    (participation ratio). It is not Roy and Vetterli's effective rank (the exponential of the spectrum's entropy),
    which needs the eigenvalues themselves.
    """
    ratio = variance.double().sum().square() / squares
    return torch.where(squares > 0, ratio, 0.0).to(variance.dtype)


def _covariance_by_samples(centred: Tensor, variance: Tensor, total: int) -> tuple[Tensor, Tensor, Tensor]:
    """Covariance term and its gradient through this rank's rows of the N x N matrix K, for N < D; ||C||_F^2."""
    dims = centred.shape[1]
    everyone = distributed.gather_rows(centred)
    gram = centred @ everyone.T / (total - 1)
    squares = distributed.sum_over_ranks(torch.linalg.vector_norm(gram, dtype=torch.float64).square())
    value = (squares - variance.double().square().sum()) / dims
    grad = torch.addcmul(gram @ everyone, centred, variance, value=-1)
    return value.to(centred.dtype), grad.mul_(4.0 / (dims * (total - 1))), squares


def _covariance_by_dimensions(centred: Tensor, variance: Tensor, total: int) -> tuple[Tensor, Tensor, Tensor]:
    """Covariance term and its gradient through the D x D matrix C, for D <= N; ||C||_F^2."""
    dims = centred.shape[1]
    covariance = distributed.sum_over_ranks(centred.T @ centred) / (total - 1)
    covariance.fill_diagonal_(0)
    off_diagonal = torch.linalg.vector_norm(covariance, dtype=torch.float64).square()
    grad = (centred @ covariance).mul_(4.0 / (dims * (total - 1)))
    return (off_diagonal / dims).to(centred.dtype), grad, off_diagonal + variance.double().square().sum()


def vicreg_loss(a: Tensor, b: Tensor, config: LossConfig) -> dict[str, Tensor]:
    """The loss of two branches' embeddings, n x D each on every rank, with its terms apart.

    Returns "loss" (weighted sum), "invariance", "variance" and "covariance" (unweighted, of the global batch), and
    "embedding_std" (mean standard deviation over both branches and all dimensions; near 0 means collapse) and
    "effective_rank" (participation ratio of the global batch's covariance, mean over both branches: how many
    directions the embeddings use; near 1 means that they have collapsed to a line).
    The variance terms of the branches are averaged ("mean", official code) or added ("sum", paper, equation 6).
    Raises ValueError when the shapes differ or the global batch has fewer than two rows.
    """
    if a.shape != b.shape or a.ndim != 2:
        raise ValueError(f"embeddings have shapes {tuple(a.shape)} and {tuple(b.shape)}, allowed: twice the same n x D")
    if len(a) * distributed.world_size() < 2:
        raise ValueError("the global batch has 1 row, allowed: 2 or more (the loss needs a variance)")
    with torch.autocast(a.device.type, enabled=False):
        if a.dtype in (torch.float16, torch.bfloat16):
            a, b = a.float(), b.float()
        invariance: Tensor = _Invariance.apply(a, b)
        hinge_a, covariance_a, std_a, rank_a = _Regularisers.apply(a)
        hinge_b, covariance_b, std_b, rank_b = _Regularisers.apply(b)
        variance = hinge_a + hinge_b
        if config.variance_reduction == "mean":
            variance = variance / 2
        covariance = covariance_a + covariance_b
        loss = (
            config.invariance_weight * invariance
            + config.variance_weight * variance
            + config.covariance_weight * covariance
        )
    return {
        "loss": loss,
        "invariance": invariance.detach(),
        "variance": variance.detach(),
        "covariance": covariance.detach(),
        "embedding_std": (std_a + std_b).detach() / 2,
        "effective_rank": (rank_a + rank_b).detach() / 2,
    }
