"""Gaussian blur with a standard deviation for each image, in two forms of the same sum: for CPUs, and for GPUs."""

from __future__ import annotations

import math

import torch
from torch import Tensor

BLUR_RADIUS_SIGMAS = 3.0
"""Where the Gaussian is cut off: from black to white beside each other that moves a value by 0.4 of 255."""


def radius_px(largest_sigma_px: float) -> int:
    """Half the width of the widest kernel."""
    return math.ceil(BLUR_RADIUS_SIGMAS * largest_sigma_px)


def blur(images: Tensor, sigmas_px: Tensor, radius_px: int) -> None:
    """Blur images (n, 3, S, S) in place, columns then rows, the borders continued by their last pixels as in Pillow.

    sigmas_px: (n, 1, 1, 1); radius_px: of the widest kernel. A narrower one is filled up with zeros, so that a sample's
    result does not depend on which others it is blurred with. On a GPU two products with banded matrices, which read
    and write an image twice and not 26 times.
    """
    offsets = torch.arange(radius_px + 1, device=images.device).view(-1, 1, 1, 1, 1)
    weights = torch.exp(-0.5 * (offsets / sigmas_px) ** 2) * (offsets <= torch.ceil(BLUR_RADIUS_SIGMAS * sigmas_px))
    weights = weights / (2 * weights.sum(0) - weights[0])
    if images.device.type == "cuda":
        _blur_by_products(images, weights)
    else:
        _blur_by_shifts(images, weights)


def _blur_by_shifts(images: Tensor, weights: Tensor) -> None:
    """weights: of the middle and of each distance from it (radius + 1, n, 1, 1, 1)."""
    radius_px = len(weights) - 1
    padded = torch.nn.functional.pad(images, (radius_px,) * 4, mode="replicate")
    for dim in (2, 3):
        size = images.shape[dim]
        total = padded.narrow(dim, radius_px, size) * weights[0]
        for k in range(1, radius_px + 1):
            total.addcmul_(padded.narrow(dim, radius_px - k, size), weights[k])
            total.addcmul_(padded.narrow(dim, radius_px + k, size), weights[k])
        padded = total
    images.copy_(padded)


def _blur_by_products(images: Tensor, weights: Tensor) -> None:
    """The same for square images (n, 3, S, S); the first and the last pixel also have the weights of those outside."""
    count, size = len(images), images.shape[3]
    by_distance = torch.nn.functional.pad(weights.view(len(weights), count).t(), (0, size))
    farther = torch.ones((by_distance.shape[1], size), dtype=weights.dtype, device=weights.device).tril(-1)
    outside = by_distance @ farther  # the weights of all that are farther; a GPU's cumsum has no deterministic form
    places = torch.arange(size, device=images.device)
    matrix = by_distance[:, (places.view(-1, 1) - places).abs()]
    matrix[:, :, 0] += outside
    matrix[:, :, -1] += outside.flip(1)
    blurred = torch.bmm(images.reshape(count, 3 * size, size), matrix.transpose(1, 2)).view(count, 3, size, size)
    for channel in range(3):
        images[:, channel] = torch.bmm(matrix, blurred[:, channel])
