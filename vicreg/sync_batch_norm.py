"""Batch norm with the statistics of the global batch, on CPU ranks too (torch's own needs a GPU)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from vicreg import distributed


class _Normalise(Function):
    """Normalise over all dimensions but the second, over all ranks; equal shapes on every rank."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        dims = [d for d in range(x.ndim) if d != 1]
        shape = [-1 if d == 1 else 1 for d in range(x.ndim)]
        count = x.numel() // x.shape[1] * distributed.world_size()
        mean = distributed.sum_over_ranks(x.sum(dims)) / count
        centred = x - mean.view(shape)
        variance = distributed.sum_over_ranks(centred.square().sum(dims)) / count
        scale = (variance + eps).rsqrt()
        normal = centred.mul_(scale.view(shape))
        ctx.save_for_backward(normal, scale, weight)
        ctx.dims, ctx.shape, ctx.count = dims, shape, count
        ctx.mark_non_differentiable(mean, variance)
        return torch.addcmul(bias.view(shape), normal, weight.view(shape)), mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _mean: Tensor, _variance: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        normal, scale, weight = ctx.saved_tensors
        sums = torch.stack([grad.sum(ctx.dims), (grad * normal).sum(ctx.dims)])
        grad_bias, grad_weight = sums[0].clone(), sums[1].clone()  # of this rank; summed with all other gradients
        mean_grad, mean_grad_normal = distributed.sum_over_ranks(sums) / ctx.count
        inner = grad - mean_grad.view(ctx.shape) - normal * mean_grad_normal.view(ctx.shape)
        return inner * (scale * weight).view(ctx.shape), grad_weight, grad_bias, None


class SyncBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch norm over all ranks' samples (every rank holds equally many); otherwise as nn.BatchNorm1d/2d."""

    def _check_input_dim(self, input: Tensor) -> None:
        if input.ndim < 2:
            raise ValueError(f"input has {input.ndim} dimensions, allowed: 2 or more")

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        output, mean, variance = _Normalise.apply(input, self.weight, self.bias, self.eps)
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        count = input.numel() // input.shape[1] * distributed.world_size()
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)
        self.num_batches_tracked += 1
        result: Tensor = output
        return result


def synchronise(module: nn.Module, device: torch.device) -> nn.Module:
    """Replace every batch norm by one over all ranks; torch's on GPUs, ours on CPUs; nothing for a single rank."""
    if distributed.world_size() == 1:
        return module
    if device.type == "cuda":
        converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(module)
        return converted
    for name, child in module.named_children():
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            setattr(module, name, _converted(child))
        else:
            synchronise(child, device)
    return module


def _converted(plain: nn.modules.batchnorm._BatchNorm) -> SyncBatchNorm:
    if not (plain.affine and plain.track_running_stats and plain.momentum is not None):
        raise ValueError(f"{plain} cannot be synchronised over CPU ranks, allowed: affine, with running statistics")
    synced = SyncBatchNorm(plain.num_features, plain.eps, plain.momentum, dtype=plain.weight.dtype)
    synced.load_state_dict(plain.state_dict())
    synced.train(plain.training)
    return synced
