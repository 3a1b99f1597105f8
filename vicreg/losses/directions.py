"""Losses of embeddings' directions that compare a row with its partner alone, and how far directions are spread."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from vicreg.losses.contrastive import at_least_float32
from vicreg.ranks import distributed


def negative_cosine(predicted: Tensor, target: Tensor) -> Tensor:
    """Minus the mean cosine over the global batch of rows (n x D on every rank) with theirs in `target`.

    The target has no gradient: D of SimSiam (Chen, He, CVPR 2021, equation 1), and half of BYOL's regression loss less
    one, as |p - z|^2 = 2 - 2 cos for vectors of length 1.
    """
    with torch.autocast(predicted.device.type, enabled=False):
        cosines = functional.cosine_similarity(at_least_float32(predicted), at_least_float32(target.detach()))
        own = -cosines.sum() / (len(cosines) * distributed.world_size())
        whole = distributed.sum_over_ranks(own.detach().clone())
        return own + (whole - own).detach()  # the value of all rows, the gradient of the own ones


@torch.no_grad()
def spread_of_directions(*embeddings: Tensor) -> Tensor:
    """Mean over dimensions of the standard deviation of embeddings brought to length 1, times sqrt(D).

    1 where directions are spread over all dimensions alike, 0 where all rows point the same way. Of the global batch;
    the mean of several embeddings (n x D each on every rank). Source: SimSiam, section 4.1, without the factor.
    """
    units = [functional.normalize(at_least_float32(each)) for each in embeddings]
    total = len(units[0]) * distributed.world_size()
    sums = torch.stack([torch.stack([unit.sum(0), unit.square().sum(0)]) for unit in units])
    mean, square = (distributed.sum_over_ranks(sums) / total).unbind(1)
    return (square - mean.square()).clamp_min(0).mul(mean.shape[1]).sqrt().mean()
