"""What can happen to the values of views, one function each, in place: float32 (n, C, S, S) from 0 to 1.

Stands apart from `augment.py`, which plans what happens to which samples. The amounts are (n, 1, 1, 1), or (n, C, 1, 1)
where each channel has its own.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from enum import IntEnum

import torch
from torch import Tensor

from vicreg.views import rand_augment
from vicreg.views.view_parameters import Jitter, Rand

GRAY = (19595 / 65536, 38470 / 65536, 7471 / 65536)
"""Weights of red, green and blue in Pillow's conversion to "L"."""


class Operation(IntEnum):
    """What can happen to an image; the first four are `Jitter`'s."""

    BRIGHTNESS = Jitter.BRIGHTNESS
    CONTRAST = Jitter.CONTRAST
    SATURATION = Jitter.SATURATION
    HUE = Jitter.HUE
    ROTATE = 4
    GRAYSCALE = 5
    BLUR = 6
    SOLARIZE = 7
    CHANNEL_CONTRAST = 20  # RandAugment's operations lie between (view_parameters.Rand)


def _brightness(images: Tensor, factors: Tensor) -> None:
    images.mul_(factors).clamp_(0, 1)


def _contrast(images: Tensor, factors: Tensor) -> None:
    """Away from the mean of the gray image, which Pillow rounds to 8 bits."""
    red, green, blue = _rgb(images.mean((2, 3), keepdim=True))
    mean = (red * GRAY[0] + green * GRAY[1] + blue * GRAY[2]).mul_(255).add_(0.5).floor_().div_(255)
    images.mul_(factors).add_(mean.mul_(1 - factors)).clamp_(0, 1)


def _channel_contrast(images: Tensor, factors: Tensor) -> None:
    """Away from the mean of each channel."""
    mean = images.mean((2, 3), keepdim=True)
    images.mul_(factors).add_(mean.mul_(1 - factors)).clamp_(0, 1)


def _saturation(images: Tensor, factors: Tensor) -> None:
    """Away from the gray image."""
    torch.addcmul(_gray(images).mul_(1 - factors), images, factors, out=images).clamp_(0, 1)


def _hue(images: Tensor, shifts: Tensor) -> None:
    """Turn the hue of hue, saturation and value; exact, where Pillow rounds all three to 8 bits.

    With hue h in turns, value v and chroma c, a channel is v - c * clamp(2 - 6 d, 0, 1), d being the distance on the
    colour wheel from h to the hue opposite the channel's own: red 1/2, green 5/6, blue 1/6. The largest channel is
    picked with weights 0 and 1, which on CPUs is several times faster than with a condition.
    """
    red, green, blue = _rgb(images)
    value = torch.maximum(red, green).maximum(blue)
    chroma = value - torch.minimum(red, green).minimum(blue)
    sixths = torch.lerp((red - green).add_(chroma, alpha=4), (blue - red).add_(chroma, alpha=2), (value - green).eq_(0))
    sixths = torch.lerp(sixths, green - blue, (value - red).eq_(0)).div_(chroma.clamp_min(1e-12))
    # 2 whole turns keep the sum positive, so that frac() is its place on the wheel; d is 1/2 - |place - 1/2|, so that
    # clamp(2 - 6 d, 0, 1) is 6 * clamp(|place - 1/2|, 1/6, 1/3) - 1.
    places = torch.add(shifts + by_channel((2 - 1 / 2, 2 - 5 / 6, 2 - 1 / 6), images.device), sixths, alpha=1 / 6)
    apart = places.frac_().sub_(0.5).abs_().clamp_(1 / 6, 1 / 3)
    torch.addcmul(value.add_(chroma), apart, chroma.mul_(-6), out=images)


def _rotate(images: Tensor, angles_rad: Tensor) -> None:
    """Counter-clockwise about the centre, bilinear; what comes from outside is black."""
    rand_augment.rotate(images, angles_rad, fill=None)


def _grayscale(images: Tensor, _: Tensor) -> None:
    images.copy_(_gray(images).expand_as(images))


def _solarize(images: Tensor, _: Tensor) -> None:
    """Invert what is 128 and above; between 127 and 128 there is nothing in 8 bits, so it is 1/2 here."""
    torch.minimum(images, 1 - images, out=images)


def _gray(images: Tensor) -> Tensor:
    red, green, blue = _rgb(images)
    return (red * GRAY[0]).add_(green, alpha=GRAY[1]).add_(blue, alpha=GRAY[2])


def _rgb(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return images[:, :1], images[:, 1:2], images[:, 2:]


@functools.lru_cache(maxsize=64)
def by_channel(values: tuple[float, ...], device: torch.device) -> Tensor:
    """A constant per channel (3, 1, 1); kept, because bringing it to a GPU would wait for the GPU."""
    return torch.tensor(values, dtype=torch.float32, device=device).view(-1, 1, 1)


OPERATIONS: dict[Operation | Rand, Callable[[Tensor, Tensor], None]] = {
    Operation.BRIGHTNESS: _brightness,
    Operation.CONTRAST: _contrast,
    Operation.SATURATION: _saturation,
    Operation.HUE: _hue,
    Operation.ROTATE: _rotate,
    Operation.GRAYSCALE: _grayscale,
    Operation.SOLARIZE: _solarize,
    Operation.CHANNEL_CONTRAST: _channel_contrast,
    **rand_augment.OPERATIONS,
}
