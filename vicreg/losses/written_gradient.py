"""A loss whose gradient is made together with its value: nothing of the steps between is kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from vicreg.ranks import distributed


class _Written(Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, num_inputs: int, *tensors: Tensor) -> Tensor:
        ctx.num_inputs = num_inputs
        ctx.save_for_backward(*tensors[num_inputs:])
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        of_inputs = [own.mul_(grad) for own in ctx.saved_tensors]  # in place: autograd refuses a second time by itself
        return None, None, *of_inputs, *([None] * ctx.num_inputs)


def with_gradient(value: Tensor, inputs: Sequence[Tensor], gradients: Sequence[Tensor]) -> Tensor:
    """`value` (), a function of `inputs` with these `gradients`, which are used up; it can be differentiated once."""
    result: Tensor = _Written.apply(value.detach(), len(inputs), *inputs, *gradients)
    return result


def of_whole_batch(own: Tensor) -> Tensor:
    """The sum of the ranks' parts (), with the gradient of this rank's own part."""
    whole = distributed.sum_over_ranks(own.detach().clone())
    return own + (whole - own).detach()
