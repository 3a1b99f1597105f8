"""Parameters drawn in torch are those that numpy draws, to the bit."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from vicreg.config import ViewConfig, official_views
from vicreg.methods import vicreg
from vicreg.views.augment import ColourPlan
from vicreg.views.drawn_in_torch import draw_in_torch, reason_against
from vicreg.views.keyed_random import bits, bits_in_torch, uniform, uniform_in_torch
from vicreg.views.view_parameters import draw_colour, draw_geometry, exponential

SAMPLES = np.array([0, 1, 7, 2**31, 2**40 + 3, 2**62, *range(100, 160)], np.int64)
KEYS = [(0, 0, 0), (1, 2, 1), (2**64 - 1, 2**40, 0xFFFF_FFFF), (-1, 999, 7), (12345, 3, 2)]
NARROW = ViewConfig(crop_scale=(0.9, 1.0), crop_ratio=(2.0, 3.0), hue=0.5, blur_p=0.5, solarize_p=0.5)
"""Whose crops seldom fit: the fallback is taken, or a late try."""


@pytest.mark.parametrize(("seed", "epoch", "view"), KEYS)
def test_bits_equal_numpys(seed: int, epoch: int, view: int) -> None:
    draws = [0, 5, 64, 2**20]
    keys = (seed, torch.tensor(epoch), torch.from_numpy(SAMPLES), view, torch.tensor(draws))
    mine, numbers = bits_in_torch(*keys).numpy().view(np.uint64), uniform_in_torch(*keys).numpy()
    for row, draw in enumerate(draws):
        assert np.array_equal(mine[row], bits(seed, epoch, SAMPLES, view, draw))
        assert np.array_equal(numbers[row], uniform(seed, epoch, SAMPLES, view, draw))


@pytest.mark.parametrize("view", [*official_views(), *vicreg.RECIPES["cifar10"].pretrain.views[:1], NARROW])
@pytest.mark.parametrize(("height", "width"), [(32, 32), (37, 90), (1, 500)])
def test_parameters_equal_numpys(view: ViewConfig, height: int, width: int) -> None:
    for epoch in range(3):
        samples = np.arange(epoch, 2_000 + epoch)
        sides = np.full(samples.max() + 1, 1)
        geometry = draw_geometry(view, 3, epoch, samples, 1, width * sides[samples], height * sides[samples])
        colour = ColourPlan.build(draw_colour(view, 3, epoch, samples, 1), geometry.angle_rad)
        drawn = draw_in_torch(view, 3, torch.tensor(epoch), torch.from_numpy(samples), 1, height, width)
        assert np.array_equal(drawn.boxes.numpy(), geometry.boxes)
        assert np.array_equal(drawn.flip.numpy(), geometry.flip)
        assert torch.equal(drawn.settings, colour.settings)


def test_what_is_not_drawn_here_says_why() -> None:
    assert reason_against(ViewConfig()) == ""
    assert "RandAugment" in reason_against(ViewConfig(rand_augment=2))
    assert "rotations" in reason_against(dataclasses.replace(ViewConfig(), rotation_deg=5.0))


def test_the_exponential_is_one() -> None:
    values = np.linspace(-4, 4, 10_001)
    mine = exponential(values)
    np.testing.assert_allclose(mine, np.exp(values), rtol=2e-14)
    assert np.array_equal(exponential(torch.from_numpy(values)).numpy(), mine)
