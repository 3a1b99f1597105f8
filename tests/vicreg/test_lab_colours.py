"""Lab beside published colours and a loop of its own, and the encoder whose halves see lightness and colour apart."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vicreg.config import ModelConfig
from vicreg.lab_colours import LabEncoder, lab
from vicreg.model import encoder_by_config, num_features

# sRGB and CIE Lab (D65): the primaries, white and a grey, as colour calculators print them.
PUBLISHED = {
    (255, 0, 0): (53.24, 80.09, 67.20),
    (0, 255, 0): (87.74, -86.18, 83.18),
    (0, 0, 255): (32.30, 79.19, -107.86),
    (255, 255, 255): (100.0, 0.0, 0.0),
    (119, 119, 119): (50.03, 0.0, 0.0),
    (0, 0, 0): (0.0, 0.0, 0.0),
}


def test_colours_are_those_published() -> None:
    images = torch.tensor(list(PUBLISHED), dtype=torch.float64).view(-1, 3, 1, 1) / 255
    found = lab(images).view(-1, 3) * 100
    torch.testing.assert_close(found, torch.tensor(list(PUBLISHED.values()), dtype=torch.float64), rtol=0, atol=0.06)


def _slow(pixel: tuple[float, ...]) -> list[float]:
    linear = [((c + 0.055) / 1.055) ** 2.4 if c > 0.04045 else c / 12.92 for c in pixel]
    matrix = [[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]]
    xyz = [sum(m * c for m, c in zip(row, linear, strict=True)) for row in matrix]
    f = [t ** (1 / 3) if t > 0.008856 else 7.787 * t + 16 / 116 for t in np.divide(xyz, [0.95047, 1.0, 1.08883])]
    return [116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])]


def test_any_colour_equals_the_slow_program() -> None:
    pixels = np.random.default_rng(0).uniform(size=(50, 3)) ** 3
    found = lab(torch.tensor(pixels).view(-1, 3, 1, 1)).view(-1, 3) * 100
    np.testing.assert_allclose(found.numpy(), [_slow(tuple(pixel)) for pixel in pixels], rtol=1e-9, atol=1e-9)


def test_each_half_sees_its_own_and_the_normalisation_is_undone() -> None:
    encoder = encoder_by_config(ModelConfig("resnet10-narrow", small_images=True, colours="lab"))
    assert isinstance(encoder, LabEncoder)
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.4, 0.3)
    encoder.eval().normalised_by(mean, std)
    raw = torch.rand(2, 3, 16, 16)
    images = (raw - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    colours = lab(raw)
    expected = torch.cat([encoder.lightness(colours[:, :1]), encoder.colour(colours[:, 1:])], 1)
    torch.testing.assert_close(encoder(images), expected, rtol=1e-4, atol=1e-4)
    assert encoder(images).shape == (2, num_features(encoder))
    grey = raw.mean(1, keepdim=True).expand(2, 3, 16, 16)
    assert lab(grey)[:, 1:].abs().max() < 1e-3


def test_an_encoder_that_does_not_begin_with_a_convolution_is_refused() -> None:
    with pytest.raises(ValueError, match="colours is 'lab', but the encoder begins with"):
        LabEncoder(torch.nn.Sequential(torch.nn.Linear(3, 4)), torch.nn.Sequential(torch.nn.Linear(3, 4)))
