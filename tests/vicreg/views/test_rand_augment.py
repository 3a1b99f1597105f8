"""RandAugment: each operation beside Pillow's, and the draws beside what they are said to be."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageFilter, ImageOps
from scipy import stats

from tests.vicreg.photos import photos
from vicreg.config import ViewConfig
from vicreg.views.augment import ColourPlan, augment
from vicreg.views.rand_augment import FILL, OPERATIONS
from vicreg.views.view_parameters import RAND_CHOICES, Jitter, Rand, draw_colour

SIDE = 48
NUM = 6000
SAMPLES = np.arange(NUM, dtype=np.int64)
MEAN_COLOUR = tuple(round(255 * value) for value in FILL)


def _moved(image: Image.Image, *numbers: float) -> Image.Image:
    method, bilinear = Image.Transform.AFFINE, Image.Resampling.BILINEAR
    return image.transform(image.size, method, numbers, resample=bilinear, fillcolor=MEAN_COLOUR)


def _rotated(image: Image.Image, degrees: float) -> Image.Image:
    return image.rotate(degrees, Image.Resampling.BILINEAR, fillcolor=MEAN_COLOUR)


def _solarize_add(image: Image.Image, added: int) -> Image.Image:
    return image.point([min(255, value + added) if value < 128 else value for value in range(256)] * 3)


CASES: dict[str, tuple[Rand, float, Callable[[Image.Image], Image.Image]]] = {
    "autocontrast": (Rand.AUTOCONTRAST, 0.0, ImageOps.autocontrast),
    "equalize": (Rand.EQUALIZE, 0.0, ImageOps.equalize),
    "invert": (Rand.INVERT, 0.0, ImageOps.invert),
    "rotate": (Rand.ROTATE, np.deg2rad(20), lambda image: _rotated(image, 20)),
    "posterize": (Rand.POSTERIZE, 3.0, lambda image: ImageOps.posterize(image, 3)),
    "posterize to nothing": (Rand.POSTERIZE, 0.0, lambda image: image.point([0] * 768)),
    "solarize": (Rand.SOLARIZE, 100.0, lambda image: ImageOps.solarize(image, 100)),
    "solarize nothing": (Rand.SOLARIZE, 256.0, lambda image: image),
    "solarize_add": (Rand.SOLARIZE_ADD, 60.0, lambda image: _solarize_add(image, 60)),
    "sharpness": (Rand.SHARPNESS, 1.9, lambda image: ImageEnhance.Sharpness(image).enhance(1.9)),
    "smoothness": (Rand.SHARPNESS, 0.1, lambda image: ImageEnhance.Sharpness(image).enhance(0.1)),
    "shear_x": (Rand.SHEAR_X, 0.2, lambda image: _moved(image, 1, 0.2, 0, 0, 1, 0)),
    "shear_y": (Rand.SHEAR_Y, -0.3, lambda image: _moved(image, 1, 0, 0, -0.3, 1, 0)),
    "translate_x": (Rand.TRANSLATE_X, 0.25, lambda image: _moved(image, 1, 0, 0.25 * SIDE, 0, 1, 0)),
    "translate_y": (Rand.TRANSLATE_Y, -0.25, lambda image: _moved(image, 1, 0, 0, 0, 1, -0.25 * SIDE)),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_an_operation_is_pillows(case: str) -> None:
    operation, amount, pillow = CASES[case]
    image = Image.fromarray(photos(1, SIDE)[0]).filter(ImageFilter.GaussianBlur(1))
    ours = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255
    OPERATIONS[operation](ours, torch.tensor([amount], dtype=torch.float32).view(1, 1, 1, 1))
    found = 255 * ours[0].permute(1, 2, 0).numpy()
    apart = np.abs(found - np.array(pillow(image), np.float32))
    is_warp = case.startswith(("rotate", "shear", "translate"))
    # Pillow rounds to 8 bits, once or twice; at the border of what comes from outside it does not mix.
    assert np.mean(apart > 1.5) < (0.1 if is_warp else 1e-9)
    assert apart.mean() < (3 if is_warp else 0.6)


@pytest.mark.parametrize("side_px", [5, 16, 19, 24, 40])
def test_few_pixels_are_equalized_as_pillow_does(side_px: int) -> None:
    """Whole steps of few pixels reach beyond 255, where Pillow stops."""
    for seed in range(5):
        values = np.random.default_rng(seed).integers(0, 256, (side_px, side_px, 3), dtype=np.uint8)
        ours = torch.from_numpy(values).permute(2, 0, 1)[None].float() / 255
        OPERATIONS[Rand.EQUALIZE](ours, torch.zeros(1, 1, 1, 1))
        found = (255 * ours[0].permute(1, 2, 0)).round().numpy()
        np.testing.assert_array_equal(found, np.array(ImageOps.equalize(Image.fromarray(values))))


@pytest.mark.parametrize("case", CASES)
def test_an_operation_stays_between_black_and_white(case: str) -> None:
    operation, amount, _ = CASES[case]
    for side_px in (8, 24, 33):
        seeded = torch.Generator().manual_seed(side_px)
        values = torch.rand((4, 3, side_px, side_px), generator=seeded).round(decimals=2)
        values[0] = values[0].round()
        OPERATIONS[operation](values, torch.full((4, 1, 1, 1), amount))
        assert float(values.min()) >= 0
        assert float(values.max()) <= 1 + 1e-6


def test_equalize_leaves_a_flat_channel() -> None:
    flat = torch.full((1, 3, 8, 8), 77 / 255)
    OPERATIONS[Rand.EQUALIZE](flat, torch.zeros(1, 1, 1, 1))
    torch.testing.assert_close(flat, torch.full((1, 3, 8, 8), 77 / 255))


def test_the_draws_are_even_over_operations_and_of_the_said_strength() -> None:
    colour = draw_colour(ViewConfig(rand_augment=2, rand_magnitude=9.0), 0, 0, SAMPLES, 1)
    assert colour.rand_operations.shape == colour.rand_amounts.shape == (NUM, 2)
    assert np.mean(colour.rand_operations < 0) == pytest.approx(0.5, abs=0.02)
    for number in range(2):
        operations, amounts = colour.rand_operations[:, number], colour.rand_amounts[:, number]
        counts = [int((operations == choice).sum()) for choice in RAND_CHOICES]
        assert stats.chisquare(counts).pvalue > 1e-3
        factors = amounts[np.isin(operations, [Jitter.BRIGHTNESS, Jitter.CONTRAST, Jitter.SATURATION, Rand.SHARPNESS])]
        levels = (factors - 0.1) / 0.18
        assert levels.mean() == pytest.approx(9.0, abs=0.06)
        assert levels.std() == pytest.approx(0.5, abs=0.05)
        angles = np.rad2deg(amounts[operations == Rand.ROTATE])
        assert np.abs(angles).mean() == pytest.approx(27, abs=0.5)
        assert np.mean(angles > 0) == pytest.approx(0.5, abs=0.15)
        assert set(amounts[operations == Rand.POSTERIZE]) <= {2.0, 3.0, 4.0}
        assert np.abs(amounts[operations == Rand.TRANSLATE_X]).max() <= 0.45 + 1e-6
    first, second = colour.rand_operations.T
    assert np.mean(second[first >= 0] < 0) == pytest.approx(0.5, abs=0.03)


def test_a_view_has_its_operations_one_after_the_other_whatever_the_batch() -> None:
    view = ViewConfig(jitter_p=0.0, grayscale_p=0.0, blur_p=0.0, rand_augment=2)
    samples = SAMPLES[:40]
    images = torch.from_numpy(np.stack(photos(len(samples), 16))).permute(0, 3, 1, 2)
    colour, still = draw_colour(view, 0, 3, samples, 0), np.zeros(len(samples), np.float32)
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    together = augment(images, ColourPlan.build(colour, still), mean, std)
    one_by_one = augment(images, ColourPlan.build(colour, still, one_by_one=True), mean, std)
    torch.testing.assert_close(one_by_one, together, rtol=0, atol=1e-6)
    alone = augment(images[7:8], ColourPlan.build(draw_colour(view, 0, 3, samples[7:8], 0), still[:1]), mean, std)
    torch.testing.assert_close(alone[0], together[7], rtol=0, atol=1e-6)
    untouched = (colour.rand_operations < 0).all(1)
    torch.testing.assert_close(together[untouched], images[untouched] / 255)
    assert not torch.equal(together[~untouched], images[~untouched] / 255)
    assert 0 <= float(together.min()) <= float(together.max()) <= 1
