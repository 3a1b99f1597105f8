"""A large batch through an encoder in parts that fit in memory: the loss of the whole batch, and exactly its gradient.

Two passes, as in GradCache (Gao et al., 2021, arXiv:2101.06983): first the features of all parts without a graph; then,
when the loss of the whole batch has given the gradient of every feature, each part once more with its graph. What
stands behind the encoder sees the whole batch. An encoder's batch norm has the statistics of a part, of all ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vicreg.training.running_statistics import RunningStatistics


@dataclass(frozen=True)
class _Call:
    """One call of an encoder, to be done again part by part."""

    forward: Callable[[Tensor], Tensor]
    images: Tensor
    features: Tensor
    """A leaf, whose gradient the loss gives."""
    seed: int
    """Of the first part's dropout; every part has one of its own."""


class MicroBatches:
    """Lets encoders take `size` images at a time; `finish` follows the backward pass of the loss."""

    def __init__(self, encoders: Iterable[nn.Module], size: int, statistics: RunningStatistics) -> None:
        self._size = size
        self._statistics = statistics
        self._calls: list[_Call] = []
        self._num_parts = 0
        for encoder in encoders:
            # Of this one module: another around it would change the names in the state that is saved.
            encoder.forward = self._in_parts(encoder, encoder.forward)

    def _in_parts(self, encoder: nn.Module, forward: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        def call(images: Tensor) -> Tensor:
            learns = encoder.training and torch.is_grad_enabled() and any(p.requires_grad for p in encoder.parameters())
            if not learns or len(images) <= self._size:
                return forward(images)
            seed = torch.initial_seed() + 1 + self._num_parts
            parts = []
            with torch.no_grad():
                for number, part in enumerate(images.split(self._size)):
                    with _seeded(seed + number, images.device):
                        parts.append(forward(part))
            self._num_parts += len(parts)
            torch.clear_autocast_cache()  # of weights that were cast without a graph
            features = torch.cat(parts).requires_grad_()
            self._calls.append(_Call(forward, images, features, seed))
            return features

        return call

    def begin(self) -> None:
        """Forget what an earlier step has left."""
        self._calls.clear()
        self._num_parts = 0

    def finish(self, autocast: Callable[[], AbstractContextManager[Any]]) -> None:
        """The second pass: adds to the parameters' gradients. Running statistics stay those of the first pass."""
        before = self._statistics.copies()
        for call in self._calls:
            gradient = call.features.grad
            if gradient is None:  # the loss does not depend on it
                continue
            parts = zip(call.images.split(self._size), gradient.split(self._size), strict=True)
            for number, (images, own) in enumerate(parts):
                with _seeded(call.seed + number, images.device):
                    with autocast():
                        features = call.forward(images)
                    features.backward(own)
        self._statistics.put_back(before)
        self._calls.clear()


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """A part's own random numbers, the same in both passes, which leave no trace in the generator."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
