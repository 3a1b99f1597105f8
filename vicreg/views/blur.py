"""Gaussian blur with a standard deviation for each image, in two forms of the same sum: for CPUs, and for GPUs."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

BLUR_RADIUS_SIGMAS = 3.0
"""Where the Gaussian is cut off: from black to white beside each other that moves a value by 0.4 of 255."""
PRODUCT_IMAGES = 32
"""Images that are blurred by one product: a library picks its arithmetic by the shapes, so that otherwise an image's
last bits would follow the number of its neighbours."""


def radius_px(largest_sigma_px: float) -> int:
    """Half the width of the widest kernel."""
    return math.ceil(BLUR_RADIUS_SIGMAS * largest_sigma_px)


def blur(images: Tensor, sigmas_px: Tensor, radius_px: int) -> None:
    """Blur images (n, C, S, S) in place, columns then rows, the borders continued by their last pixels as in Pillow.

    sigmas_px: (n, 1, 1, 1); radius_px: of the widest kernel. A narrower one is filled up with zeros, so that a sample's
    result does not depend on which others it is blurred with. On a GPU two products with banded matrices, which read
    and write an image twice and not 26 times.
    """
    weights = _weights(sigmas_px, radius_px)
    if images.device.type == "cuda":
        blur_by_products(images, weights)
    else:
        _blur_by_shifts(images, weights)


def _weights(sigmas_px: Tensor, radius_px: int) -> Tensor:
    """Of the middle and of each distance from it (radius + 1, n, 1, 1, 1), which with both sides add up to 1.

    On a CPU by numpy's exponential: torch's takes another path, with other last bits, at the end of an array.
    """
    offsets = torch.arange(radius_px + 1, device=sigmas_px.device).view(-1, 1, 1, 1, 1)
    exponents = -0.5 * (offsets / sigmas_px) ** 2
    bell = torch.from_numpy(np.exp(exponents.numpy())) if exponents.device.type == "cpu" else exponents.exp()
    weights = bell * (offsets <= torch.ceil(BLUR_RADIUS_SIGMAS * sigmas_px))
    total = weights[0].clone()
    for farther in weights[1:]:  # in this order, however many images there are
        total += 2 * farther
    return weights / total


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


def blur_by_products(images: Tensor, weights: Tensor) -> None:
    """The same for square images (n, C, S, S), as many at a time as one product takes, filled up with black ones."""
    for some, own in zip(images.split(PRODUCT_IMAGES), weights.split(PRODUCT_IMAGES, dim=1), strict=True):
        missing = PRODUCT_IMAGES - len(some)
        if missing:
            filled = torch.nn.functional.pad(some, (0, 0) * 3 + (0, missing))
            _blur_by_product(filled, torch.nn.functional.pad(own, (0, 0) * 3 + (0, missing)))
            some.copy_(filled[: len(some)])
        else:
            _blur_by_product(some, own)


def _blur_by_product(images: Tensor, weights: Tensor) -> None:
    """In place; the first and the last pixel also have the weights of those outside."""
    count, channels, size = images.shape[:3]
    by_distance = torch.nn.functional.pad(weights.view(len(weights), count).t(), (0, size))
    farther = [torch.zeros_like(weights[0])]  # the weights of all that are farther than radius, radius - 1, ..., 0
    for weight in weights[1:].flip(0):
        farther.append(farther[-1] + weight)
    outside = torch.nn.functional.pad(torch.cat(farther[::-1]).view(len(farther), count).t(), (0, size))[:, :size]
    places = torch.arange(size, device=images.device)
    matrix = by_distance[:, (places.view(-1, 1) - places).abs()]
    matrix[:, :, 0] += outside
    matrix[:, :, -1] += outside.flip(1)
    blurred = torch.bmm(images.reshape(count, channels * size, size), matrix.transpose(1, 2))
    blurred = blurred.view(count, channels, size, size)
    for channel in range(channels):
        images[:, channel] = torch.bmm(matrix, blurred[:, channel])
