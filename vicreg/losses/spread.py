"""How far embeddings of unit length spread over all directions, which tells a collapse."""

from __future__ import annotations

import torch
from torch import Tensor

from vicreg.ranks import distributed


@torch.no_grad()
def spread(z: Tensor) -> Tensor:
    """sqrt(D) times the mean standard deviation of the global batch's dimensions, for own rows (n, D) of unit length.

    1 where all directions are alike, as SimSiam's paper has it (section 4.1); 0 where all rows are equal.
    """
    sums = distributed.sum_over_ranks(torch.stack([z.sum(0), z.square().sum(0)]).float())
    mean, square = sums / (len(z) * distributed.world_size())
    result: Tensor = (square - mean.square()).clamp_min(0).sqrt().mean() * z.shape[1] ** 0.5
    return result
