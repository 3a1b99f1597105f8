"""The operations of RandAugment (Cubuk et al., 2020) that no other augmentation has, batched, in torch; in place.

They are those of Pillow, as PyContrast and timm draw them, in floating point but where 8 bits are their meaning
(equalize, posterize). Which image gets which is drawn in `view_parameters`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from vicreg.views.view_parameters import Rand

FILL = (124 / 255, 116 / 255, 104 / 255)
"""What comes from outside of an image: ImageNet's mean colour, in whole 8-bit numbers."""


def warp(images: Tensor, rows: list[list[Tensor]], fill: tuple[float, float, float] | None) -> None:
    """Take each pixel from where 2 rows of 3 numbers (n,) say, sides going from -1 to 1; bilinear. No fill: black."""
    affine = torch.stack([torch.stack(row, 1) for row in rows], 1)
    grid = functional.affine_grid(affine, list(images.shape), align_corners=False)
    outside = images.new_tensor(fill).view(3, 1, 1) if fill else 0.0
    images.copy_(functional.grid_sample(images - outside, grid, align_corners=False).add_(outside).clamp_(0, 1))


def rotate(images: Tensor, angles_rad: Tensor, fill: tuple[float, float, float] | None = FILL) -> None:
    """Counter-clockwise about the centre."""
    cos, sin = angles_rad.cos().view(-1), angles_rad.sin().view(-1)
    zero = torch.zeros_like(cos)
    warp(images, [[cos, -sin, zero], [sin, cos, zero]], fill)


def _shear(images: Tensor, factors: Tensor, along: int) -> None:
    """From the upper left corner, as Pillow has it."""
    by = factors.view(-1)
    zero, one = torch.zeros_like(by), torch.ones_like(by)
    warp(images, [[one, by, by], [zero, one, zero]] if along == 0 else [[one, zero, zero], [by, one, by]], FILL)


def _translate(images: Tensor, shares: Tensor, along: int) -> None:
    by = 2 * shares.view(-1)
    zero, one = torch.zeros_like(by), torch.ones_like(by)
    moved = (by, zero) if along == 0 else (zero, by)
    warp(images, [[one, zero, moved[0]], [zero, one, moved[1]]], FILL)


def _autocontrast(images: Tensor, _: Tensor) -> None:
    """Each channel from its smallest and largest value to 0 and 1."""
    low, high = images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)
    scale = torch.where(high > low, 1 / (high - low), 1.0)
    images.sub_(torch.where(high > low, low, 0.0)).mul_(scale)


def _equalize(images: Tensor, _: Tensor) -> None:
    """Each channel's 256 values spread over as many pixels each, by Pillow's whole numbers."""
    values = _in_8_bits(images).long().flatten(2)
    counts = values.new_zeros(*values.shape[:2], 256).scatter_add_(2, values, torch.ones_like(values))
    numbers = torch.arange(256, device=images.device)
    last = (counts > 0).mul(numbers).argmax(2, keepdim=True)
    step = (values.shape[2] - counts.gather(2, last)) // 255
    before = counts.cumsum(2) - counts
    spread = ((step // 2 + before) // step.clamp_min(1)).clamp_max(255)  # of few pixels whole steps go too far
    table = torch.where(step > 0, spread, numbers)
    images.copy_(table.gather(2, values).view_as(images)).div_(255)


def _posterize(images: Tensor, bits: Tensor) -> None:
    """Keep so many upper bits."""
    step = 2 ** (8 - bits)
    images.copy_((_in_8_bits(images) / step).floor_().mul_(step)).div_(255)


def _invert(images: Tensor, _: Tensor) -> None:
    images.neg_().add_(1)


def _solarize(images: Tensor, thresholds: Tensor) -> None:
    """Invert what is so many of 255 and above."""
    images.copy_(torch.where(images * 255 < thresholds - 0.5, images, 1 - images))


def _solarize_add(images: Tensor, added: Tensor) -> None:
    """Add so many of 255 to what is below 128."""
    images.copy_(torch.where(images * 255 < 127.5, (images + added / 255).clamp_max_(1), images))


def _sharpness(images: Tensor, factors: Tensor) -> None:
    """Away from a smooth image, but for the outermost pixels."""
    kernel = images.new_full((3, 1, 3, 3), 1 / 13)
    kernel[:, :, 1, 1] = 5 / 13
    smooth = images.clone()
    smooth[:, :, 1:-1, 1:-1] = functional.conv2d(images, kernel, groups=3)
    images.mul_(factors).add_(smooth.mul_(1 - factors)).clamp_(0, 1)


def _in_8_bits(images: Tensor) -> Tensor:
    return images.mul(255).add_(0.5).floor_()


OPERATIONS: dict[Any, Callable[[Tensor, Tensor], None]] = {
    Rand.AUTOCONTRAST: _autocontrast,
    Rand.EQUALIZE: _equalize,
    Rand.INVERT: _invert,
    Rand.ROTATE: rotate,
    Rand.POSTERIZE: _posterize,
    Rand.SOLARIZE: _solarize,
    Rand.SOLARIZE_ADD: _solarize_add,
    Rand.SHARPNESS: _sharpness,
    Rand.SHEAR_X: lambda images, by: _shear(images, by, 0),
    Rand.SHEAR_Y: lambda images, by: _shear(images, by, 1),
    Rand.TRANSLATE_X: lambda images, by: _translate(images, by, 0),
    Rand.TRANSLATE_Y: lambda images, by: _translate(images, by, 1),
}
