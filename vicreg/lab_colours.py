"""CIE Lab of normalised images, and an encoder whose two halves see lightness and colour apart (CMC)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vicreg.stem import exchange_channels

_TO_XYZ = (
    (0.412453, 0.357580, 0.180423),
    (0.212671, 0.715160, 0.072169),
    (0.019334, 0.119193, 0.950227),
)
"""From linear sRGB (IEC 61966-2-1)."""
_WHITE = (0.95047, 1.0, 1.08883)  # D65, 2 degrees
_LINEAR_BELOW = 0.008856  # of f(t) = t^(1/3), which goes on as a straight line below


def lab(images: Tensor) -> Tensor:
    """Lab (B, 3, S, S), each divided by 100, of sRGB images (B, 3, S, S) with values from 0 to 1."""
    linear = torch.where(images > 0.04045, ((images + 0.055) / 1.055).clamp_min(0) ** 2.4, images / 12.92)
    red, green, blue = linear.unbind(1)
    # Pixel by pixel: the last bits of a product of matrices would depend on the number of images, and of a grey one's
    # a and b there is nothing else.
    weights = [[weight / white for weight in row] for row, white in zip(_TO_XYZ, _WHITE, strict=True)]
    xyz = torch.stack([red * to[0] + green * to[1] + blue * to[2] for to in weights], 1)
    f = torch.where(xyz > _LINEAR_BELOW, xyz.clamp_min(_LINEAR_BELOW) ** (1 / 3), 7.787 * xyz + 16 / 116)
    x, y, z = f.unbind(1)
    return torch.stack([1.16 * y - 0.16, 5 * (x - y), 2 * (y - z)], 1)


class LabEncoder(nn.Module):
    """Normalised images in, features of two encoders out, one beside the other: of L, and of a and b.

    Both are networks with a stem of their own for one and for two channels. `mean` and `std` undo the normalisation;
    they are buffers, so a saved encoder has those that it was trained with.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, lightness: nn.Module, colour: nn.Module) -> None:
        super().__init__()
        self.lightness, self.colour = lightness, colour
        for network, channels in ((lightness, 1), (colour, 2)):
            exchange_channels(network, channels, "colours is 'lab'")
        self.num_features = sum(network.num_features for network in (lightness, colour))  # type: ignore[misc]
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1))
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1))

    @torch.no_grad()
    def normalised_by(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Say how its images are normalised, by channel."""
        self.mean.copy_(torch.tensor(mean).view(3, 1, 1))
        self.std.copy_(torch.tensor(std).view(3, 1, 1))

    def halves(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, F / 2) of L, and of a and b."""
        kind = "cpu" if images.is_meta else images.device.type  # which has no autocast to be left
        with torch.autocast(kind, enabled=False):
            colours = lab(images * self.std + self.mean)
        return self.lightness(colours[:, :1]), self.colour(colours[:, 1:])

    def forward(self, images: Tensor) -> Tensor:
        """Both, one beside the other (B, F)."""
        return torch.cat(self.halves(images), 1)
