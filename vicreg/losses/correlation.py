"""The squared cross-correlation of two branches in three forms, equal in value and gradient, as for the covariance.

With A and B standardised (N x D), C = At B is D x D, and the sum of its squared entries is the inner product of the
two Gram matrices A At and B Bt, which are N x N: the smaller ones where N < D. Each form adds what the sum's derivative
is proportional to, B Bt a for a row a of A and A At b for a row b of B, so that the backward pass needs no
communication, and goes in blocks where it can. What each costs: `forms.py`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from vicreg.losses.forms import block_of
from vicreg.ranks import distributed

AddCorrelation = Callable[[Tensor, Tensor, Tensor, Tensor, float], Tensor]
"""(rows of A and B on this rank n x D, gradients of both n x D, scale) -> sum of the squared entries of At B, float64.

Adds scale * C b to the gradient of the row that b stands beside, and scale * Ct a to that of b."""


def by_samples(a: Tensor, b: Tensor, grad_a: Tensor, grad_b: Tensor, scale: float) -> Tensor:
    """This rank's rows of both Gram matrices, from everybody's rows: for N < D."""
    all_a, all_b = distributed.gather_rows(a), distributed.gather_rows(b)
    squares = a.new_zeros((), dtype=torch.float64)
    block = block_of(len(all_a))
    for start in range(0, len(a), block):
        rows = slice(start, start + block)
        gram_a, gram_b = a[rows] @ all_a.T, b[rows] @ all_b.T
        squares += _inner(gram_a, gram_b)
        grad_a[rows].addmm_(gram_b, all_a, alpha=scale)
        grad_b[rows].addmm_(gram_a, all_b, alpha=scale)
    return distributed.sum_over_ranks(squares)


def by_dimensions(a: Tensor, b: Tensor, grad_a: Tensor, grad_b: Tensor, scale: float) -> Tensor:
    """C, from each rank's share of it, some columns at a time: for D <= N."""
    squares = a.new_zeros((), dtype=torch.float64)
    block = block_of(a.shape[1])
    for start in range(0, a.shape[1], block):
        columns = slice(start, start + block)
        part = distributed.sum_over_ranks(a.T @ b[:, columns])
        squares += torch.linalg.vector_norm(part, dtype=torch.float64).square()
        grad_a.addmm_(b[:, columns], part.T, alpha=scale)
        grad_b[:, columns].addmm_(a, part, alpha=scale)
    return squares


def by_features(a: Tensor, b: Tensor, grad_a: Tensor, grad_b: Tensor, scale: float) -> Tensor:
    """Both Gram matrices, from each rank's share of the columns, all rows of them: for N < D on many ranks."""
    columns_a, columns_b = distributed.rows_to_columns(a), distributed.rows_to_columns(b)
    gram_a = distributed.sum_over_ranks(columns_a @ columns_a.T)
    gram_b = distributed.sum_over_ranks(columns_b @ columns_b.T)
    grad_a.add_(distributed.columns_to_rows(gram_b @ columns_a, a.shape[1]), alpha=scale)
    grad_b.add_(distributed.columns_to_rows(gram_a @ columns_b, b.shape[1]), alpha=scale)
    return _inner(gram_a, gram_b)


FORMS: dict[str, AddCorrelation] = {"samples": by_samples, "dimensions": by_dimensions, "features": by_features}


def _inner(first: Tensor, second: Tensor) -> Tensor:
    """The sum of products of entries, in float64: what is taken off it is most of it."""
    return (first.double() * second.double()).sum()
