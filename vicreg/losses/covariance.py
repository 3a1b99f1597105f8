"""The covariance term in three forms, equal in value and gradient: which is cheapest depends on N, D and the ranks.

With Z centred (N x D), C = Zt Z / (N - 1) is D x D and K = Z Zt / (N - 1) is N x N, and the sums of their squared
entries are equal. Each form adds the term's gradient with respect to this rank's rows, so that the backward pass needs
no communication, and goes in blocks, so that no large matrix is held. What each costs: `losses/forms.py`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from vicreg.losses.forms import block_of
from vicreg.ranks import distributed

AddCovariance = Callable[[Tensor, Tensor, int, Tensor, float], Tensor]
"""(centred rows of this rank n x D, variances D, N, gradient n x D, scale) -> sum of all squared entries of C, float64.

Adds scale * (C without its diagonal) z to the gradient of each row z: what the term's derivative is proportional to.
"""


def by_samples(centred: Tensor, variance: Tensor, total: int, grad: Tensor, scale: float) -> Tensor:
    """This rank's rows of K, from everybody's rows: for N < D."""
    everyone = distributed.gather_rows(centred)
    squares = variance.new_zeros((), dtype=torch.float64)
    block = block_of(total)
    for start in range(0, len(centred), block):
        rows = slice(start, start + block)
        gram = (centred[rows] @ everyone.T).div_(total - 1)
        squares += _squares(gram)
        grad[rows].addmm_(gram, everyone, alpha=scale)
    grad.addcmul_(centred, variance, value=-scale)
    return distributed.sum_over_ranks(squares)


def by_dimensions(centred: Tensor, variance: Tensor, total: int, grad: Tensor, scale: float) -> Tensor:
    """C, from each rank's share of it: for D <= N. Its diagonal, which the term leaves out, is set to zero."""
    off_diagonal = variance.new_zeros((), dtype=torch.float64)
    block = block_of(centred.shape[1])
    for start in range(0, centred.shape[1], block):
        columns = slice(start, start + block)
        part = distributed.sum_over_ranks(centred.T @ centred[:, columns]).div_(total - 1)
        part.diagonal(-start).zero_()
        off_diagonal += _squares(part)
        grad[:, columns].addmm_(centred, part, alpha=scale)
    return off_diagonal + variance.double().square().sum()


def by_features(centred: Tensor, variance: Tensor, total: int, grad: Tensor, scale: float) -> Tensor:
    """K, from each rank's share of the columns, all rows of them: for N < D on many ranks, where it sends less."""
    columns = distributed.rows_to_columns(centred)
    gram = distributed.sum_over_ranks(columns @ columns.T).div_(total - 1)
    squares = _squares(gram)
    product = distributed.columns_to_rows(gram @ columns, centred.shape[1])
    grad.add_(product, alpha=scale).addcmul_(centred, variance, value=-scale)
    return squares


FORMS: dict[str, AddCovariance] = {"samples": by_samples, "dimensions": by_dimensions, "features": by_features}


def _squares(matrix: Tensor) -> Tensor:
    """The sum of squared entries, in float64: the diagonals that are taken off it are most of it."""
    norm: Tensor = torch.linalg.vector_norm(matrix, dtype=torch.float64)
    return norm.square()
