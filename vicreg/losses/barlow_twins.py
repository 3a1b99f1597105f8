"""Barlow Twins' loss of the global batch, exact on any number of ranks in value and gradient.

Source: Zbontar, Jing, Misra, LeCun, Deny, ICML 2021, equations 1 and 2, and `BarlowTwins.forward` of the official code:
embeddings are standardised over the batch (variance over N, epsilon 1e-5: a batch norm without weights), C is their
cross-correlation, and the loss sum_i (1 - C_ii)^2 + redundancy_weight sum_i,j!=i C_ij^2. C itself is not needed where
the batch is smaller than the embedding (`correlation.py`), its diagonal costs N x D. As for VICReg each rank writes
down the gradient of its own rows in the forward pass, and statistics are float32 or better, outside autocast.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from vicreg.losses.correlation import FORMS
from vicreg.losses.forms import DEFAULT_SPEEDS, cheapest, correlation_costs
from vicreg.losses.settings import BarlowTwinsLossConfig as LossConfig
from vicreg.ranks import distributed

EPSILON = 1e-5  # of torch's batch norm, which the official code standardises with


PARTS = ("loss", "on_diagonal", "off_diagonal", "embedding_std")


class _Loss(Function):
    """The scaled sum and its parts, in the order of `PARTS`; only the sum has a gradient, and only once."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, config: LossConfig, form: str) -> tuple[Tensor, ...]:
        total, weight = len(a) * distributed.world_size(), config.redundancy_weight
        (unit_a, std_a), (unit_b, std_b) = _standardise(a, total), _standardise(b, total)
        diagonal = distributed.sum_over_ranks((unit_a * unit_b).sum(0)) / total
        of_diagonal = (2 * config.loss_scale / total) * (diagonal * (1 - weight) - 1)
        grad_a, grad_b = unit_b * of_diagonal, unit_a * of_diagonal
        squares = FORMS[form](unit_a, unit_b, grad_a, grad_b, 2 * config.loss_scale * weight / total**2)
        off_diagonal = (squares / total**2 - diagonal.double().square().sum()).to(a.dtype)
        on_diagonal = (1 - diagonal).square().sum()
        ctx.save_for_backward(_through(grad_a, unit_a, std_a, total), _through(grad_b, unit_b, std_b, total))
        parts = (on_diagonal, off_diagonal, (std_a.mean() + std_b.mean()) / 2)
        ctx.mark_non_differentiable(*parts)
        return config.loss_scale * (on_diagonal + weight * off_diagonal), *parts

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor, Tensor, None, None]:
        grad_a, grad_b = ctx.saved_tensors
        return grad_a.mul_(grad), grad_b.mul_(grad), None, None


def _standardise(z: Tensor, total: int) -> tuple[Tensor, Tensor]:
    """Rows of mean 0 and variance 1 over the global batch (n, D), and what they were divided by (D,)."""
    centred = z - distributed.sum_over_ranks(z.sum(0)) / total
    variance = distributed.sum_over_ranks(torch.linalg.vector_norm(centred, dim=0).square()) / total
    std = (variance + EPSILON).sqrt()
    return centred.div_(std), std


def _through(grad: Tensor, unit: Tensor, std: Tensor, total: int) -> Tensor:
    """The gradient of the rows before they were standardised: as of batch norm, from that of the rows after."""
    sums = distributed.sum_over_ranks(torch.stack([grad.sum(0), (grad * unit).sum(0)])) / total
    return grad.sub_(sums[0]).addcmul_(unit, sums[1], value=-1).div_(std)


def barlow_twins_loss(a: Tensor, b: Tensor, config: LossConfig) -> dict[str, Tensor]:
    """The loss of two branches' embeddings, n x D each on every rank, with its terms apart.

    Returns "loss" (scaled), "on_diagonal" and "off_diagonal" (sums of squares, unweighted), and "embedding_std" (mean
    over both branches and all dimensions, before they are standardised; near 0 means collapse). Only "loss" has a
    gradient, and can be differentiated once. Raises ValueError when the shapes differ or the batch has one row.
    """
    if a.shape != b.shape or a.ndim != 2:
        raise ValueError(f"embeddings have shapes {tuple(a.shape)} and {tuple(b.shape)}, allowed: twice the same n x D")
    ranks = distributed.world_size()
    if len(a) * ranks < 2:
        raise ValueError("the global batch has 1 row, allowed: 2 or more (the loss needs a variance)")
    with torch.autocast(a.device.type, enabled=False):
        if a.dtype in (torch.float16, torch.bfloat16):
            a, b = a.float(), b.float()
        form: str = config.form
        if form == "auto":
            costs = correlation_costs(len(a) * ranks, a.shape[1], ranks)
            form = cheapest(costs, ranks, DEFAULT_SPEEDS[a.device.type])
        return dict(zip(PARTS, _Loss.apply(a, b, config, form), strict=True))
