"""The sum of gradients over the ranks, sent while the backward pass goes on.

Own code and not DistributedDataParallel: that one lays its buckets out anew after its first step, so the order of
additions, and with it the last bit, would differ between a resumed and an uninterrupted run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from vicreg.ranks import distributed


class GradientSum:
    """Sums gradients over the ranks in buckets of fixed layout, while the backward pass goes on.

    Every parameter's `.grad` is a view on a bucket, filled in reverse order of the parameters as the backward pass
    does; a full bucket is sent at once, and buckets are always sent in the same order on all ranks. The global loss
    being known on every rank, the sum (not the mean) over the ranks is its gradient.
    """

    def __init__(self, module: nn.Module, bucket_mb: float = 25.0, overlaps: bool = True) -> None:
        """overlaps: whether each parameter's gradient is whole after one backward pass, and may be sent meanwhile."""
        self.parameters = [p for p in module.parameters() if p.requires_grad]
        self._buckets: list[Tensor] = []
        self._members: list[int] = []
        self._bucket_of: dict[Tensor, int] = {}
        self._waiting: list[int] = []
        self._sent: list[Callable[[], object]] = []
        limit = bucket_mb * 2**20
        for group in _split(reversed(self.parameters), limit):
            bucket = group[0].new_zeros(sum(p.numel() for p in group))
            start = 0
            for parameter in group:
                shape_source = bucket[start : start + parameter.numel()]
                # A gradient must have its parameter's strides, or autograd would replace the view.
                parameter.grad = shape_source.as_strided(parameter.shape, parameter.stride())
                self._bucket_of[parameter] = len(self._buckets)
                start += parameter.numel()
            self._buckets.append(bucket)
            self._members.append(len(group))
        if overlaps and distributed.world_size() > 1:
            for parameter in self.parameters:
                parameter.register_post_accumulate_grad_hook(self._arrived)
        self.clear()

    def clear(self) -> None:
        """Set all gradients to zero before a step."""
        torch._foreach_zero_(self._buckets)
        self._waiting = list(self._members)
        self._sent = []

    def _arrived(self, parameter: Tensor) -> None:
        self._waiting[self._bucket_of[parameter]] -= 1
        while len(self._sent) < len(self._buckets) and self._waiting[len(self._sent)] == 0:
            self._send_next()

    def _send_next(self) -> None:
        self._sent.append(distributed.begin_sum_over_ranks(self._buckets[len(self._sent)]))

    def finish(self) -> None:
        """Wait until every gradient holds the sum over the ranks; parameters without a gradient count as zero."""
        while len(self._sent) < len(self._buckets):
            self._send_next()
        for wait in self._sent:
            wait()


def _split(parameters: Iterable[Tensor], limit_bytes: float) -> list[list[Tensor]]:
    """Runs of parameters of one dtype and device, each up to the limit or a single parameter."""
    groups: list[list[Tensor]] = []
    size = 0.0
    for parameter in parameters:
        nbytes = parameter.numel() * parameter.element_size()
        fits = bool(groups) and size + nbytes <= limit_bytes
        if fits and groups[-1][0].dtype == parameter.dtype and groups[-1][0].device == parameter.device:
            groups[-1].append(parameter)
            size += nbytes
        else:
            groups.append([parameter])
            size = nbytes
    return groups
