"""Which anchors and regions are learned from: drawn by keys, so that no generator's state decides.

torchvision draws from the generator of the device, whose numbers depend on what was drawn before, on the rank and its
share of the batch. Here they are a function of (seed, step, sample): the same on any number of ranks, and on the CPU in
every bit after a resume.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler

from vicreg.views.keyed_random import bits

_DRAW = 2  # those below are of scenes.py


class KeyedSampler(BalancedPositiveNegativeSampler):  # type: ignore[misc]
    """torchvision's sampler with numbers of its own; `set_keys` before every step."""

    def __init__(self, per_image: int, positive_fraction: float, view: int) -> None:
        """view: tells samplers of one step apart."""
        super().__init__(per_image, positive_fraction)
        self._view = view
        self._keys: list[int] = []

    def set_keys(self, seed: int, step: int, samples: NDArray[np.int64]) -> None:
        """The step, and the samples of this rank's images."""
        self._keys = (bits(seed, step, samples, self._view, _DRAW) >> np.uint64(1)).tolist()

    def __call__(self, matched: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Of each image's candidates (N,), -1 unused, 0 negative, above positive: which are drawn, as masks (N,)."""
        positives, negatives = [], []
        for key, candidates in zip(self._keys, matched, strict=True):
            generator = torch.Generator(candidates.device).manual_seed(key)
            most = int(self.batch_size_per_image * self.positive_fraction)
            chosen = _drawn(candidates >= 1, most, generator)
            rest = _drawn(candidates == 0, self.batch_size_per_image - int(chosen.sum()), generator)
            positives.append(chosen)
            negatives.append(rest)
        return positives, negatives


def _drawn(candidates: Tensor, most: int, generator: torch.Generator) -> Tensor:
    """`most` of the candidates, or all if there are fewer, as a mask."""
    places = candidates.nonzero()[:, 0]
    order = torch.randperm(len(places), generator=generator, device=places.device)[:most]
    mask = torch.zeros_like(candidates, dtype=torch.uint8)
    mask[places[order]] = 1
    return mask
