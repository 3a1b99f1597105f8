"""Batch norm with the statistics of the global batch, on CPU ranks too (torch's own needs a GPU)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from vicreg.ranks import distributed


class _Normalise(Function):
    """Normalise over all dimensions but the second, over all ranks.

    shares: what part of all values each rank holds (ranks, 1); None where all hold equally many. count: of all ranks.

    torch's fused kernels go over the images; between them the ranks exchange one vector each way.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float, shares: Tensor | None, count: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        own = torch.stack(torch.batch_norm_update_stats(x, None, None, 0.0))
        means, variances = distributed.gather_rows(own[None]).unbind(1)
        # Chan, Golub, LeVeque (1983): no difference of large squares.
        if shares is None:
            mean = means.mean(0)
            variance = variances.mean(0) + (means - mean).square().mean(0)
        else:
            mean = (shares * means).sum(0)
            variance = (shares * (variances + (means - mean).square())).sum(0)
        ctx.save_for_backward(x, weight, mean, variance)
        ctx.eps, ctx.count = eps, count
        ctx.mark_non_differentiable(mean, variance)
        output = torch.native_batch_norm(x, weight, bias, mean, variance, False, 0.0, eps)[0]
        return output, mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _mean: Tensor, _variance: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, variance = ctx.saved_tensors
        # Of this rank; summed with all other gradients.
        _, grad_weight, grad_bias = torch.ops.aten.native_batch_norm_backward(
            grad, x, weight, mean, variance, None, None, False, ctx.eps, [False, True, True]
        )
        over_weight, over_bias = distributed.sum_over_ranks(torch.stack([grad_weight, grad_bias])) / ctx.count
        # grad_x = scale weight (grad - over_bias - over_weight (x - mean) scale), in two passes over the images.
        shape = [-1 if d == 1 else 1 for d in range(x.ndim)]
        scale = (variance + ctx.eps).rsqrt()
        of_x = -weight * scale.square() * over_weight
        of_none = -weight * scale * over_bias - of_x * mean
        grad_x = torch.addcmul(of_none.view(shape), grad, (scale * weight).view(shape))
        return grad_x.addcmul_(x, of_x.view(shape)), grad_weight, grad_bias, None, None, None


class SyncBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch norm over all ranks' samples; otherwise as nn.BatchNorm1d/2d.

    Every rank holds equally many, unless `uneven` is set, which costs a collective more.
    """

    uneven = False

    def _check_input_dim(self, input: Tensor) -> None:
        if input.ndim < 2:
            raise ValueError(f"input has {input.ndim} dimensions, allowed: 2 or more")

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        weight: Tensor = self.weight if self.affine else input.new_ones(self.num_features)
        bias: Tensor = self.bias if self.affine else input.new_zeros(self.num_features)
        own = input.numel() // input.shape[1]
        shares, count = None, own * distributed.world_size()
        if self.uneven:
            counts = distributed.gather_rows(torch.tensor([own], dtype=torch.float64))
            shares, count = (counts / counts.sum()).to(input.dtype)[:, None], int(counts.sum())
        output, mean, variance = _Normalise.apply(input, weight, bias, self.eps, shares, count)
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)
        self.num_batches_tracked += 1
        result: Tensor = output
        return result


def synchronise(module: nn.Module, device: torch.device, uneven: bool = False) -> nn.Module:
    """Replace every batch norm by one over all ranks; torch's on GPUs, ours on CPUs; nothing for a single rank.

    uneven: whether ranks may hold different numbers of samples (torch's always may).
    """
    if distributed.world_size() == 1:
        return module
    if device.type == "cuda":
        converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(module)
        return converted
    for name, child in module.named_children():
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            setattr(module, name, _converted(child))
            getattr(module, name).uneven = uneven
        else:
            synchronise(child, device, uneven)
    return module


def _converted(plain: nn.modules.batchnorm._BatchNorm) -> SyncBatchNorm:
    """The same layer over all ranks: its own parameters, learned or not, and its own statistics."""
    if not (plain.track_running_stats and plain.momentum is not None):
        raise ValueError(f"{plain} cannot be synchronised over CPU ranks, allowed: with running statistics")
    synced = SyncBatchNorm(plain.num_features, plain.eps, plain.momentum, affine=plain.affine)
    synced.weight, synced.bias = plain.weight, plain.bias
    synced.running_mean, synced.running_var = plain.running_mean, plain.running_var
    synced.num_batches_tracked = plain.num_batches_tracked
    return synced.train(plain.training)
