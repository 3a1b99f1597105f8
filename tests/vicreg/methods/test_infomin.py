"""The jigsaw of InfoMin: patches beside a slow loop, and an order that depends on sample and step alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.vicreg.methods.small_steps import learner_of, small
from vicreg.methods.infomin import PATCHES, keyed_numbers, patches_of


def test_patches_are_windows_of_their_cells_in_the_order_of_the_numbers() -> None:
    images = torch.arange(2 * 3 * 17 * 17).view(2, 3, 17, 17)
    numbers = keyed_numbers(torch.tensor([5, 9]), step=3)
    found = patches_of(images, numbers).numpy()
    side = round(5 * 64 / 85)
    assert found.shape == (2, PATCHES, 3, side, side)
    for image in range(2):
        down, right, order = numbers[image].numpy()
        for place, patch in enumerate(np.argsort(order, kind="stable")):
            top = patch // 3 * 5 + int(down[patch] * (5 - side + 1))
            left = patch % 3 * 5 + int(right[patch] * (5 - side + 1))
            expected = images[image, :, top : top + side, left : left + side].numpy()
            np.testing.assert_array_equal(found[image, place], expected)


def test_the_order_is_of_the_sample_and_the_step() -> None:
    numbers = keyed_numbers(torch.arange(4000), step=7)
    assert torch.equal(numbers[1234], keyed_numbers(torch.tensor([1234]), step=7)[0])
    assert not torch.equal(numbers, keyed_numbers(torch.arange(4000), step=8))
    assert 0 <= float(numbers.min()) < float(numbers.max()) < 1
    firsts = numbers[:, 2].argsort(1)[:, 0].bincount(minlength=PATCHES)
    assert (firsts - 4000 / PATCHES).abs().max() < 100  # nearly five standard deviations


def test_it_wants_three_views() -> None:
    config = small("infomin", "infomin", queue_length=24)
    two = type(config)(**{**vars(config), "views": config.views[:2]})
    with pytest.raises(ValueError, match="'2 of an image', allowed: 3 for infomin"):
        learner_of(two)
