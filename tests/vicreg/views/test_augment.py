"""Colours of real photos: each operation beside torchvision and Pillow, the whole in the drawn order, batch or single.

Pillow rounds to 8 bits after every operation (brightness, contrast and saturation by cutting off), this code never
does; the tolerances below, in 255ths, are what follows from that.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from unittest.mock import patch

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as reference
from PIL import Image, ImageFilter, ImageOps
from sklearn.datasets import load_sample_images
from torch import Tensor
from torchvision.transforms import InterpolationMode

from vicreg.config import DataConfig, ViewConfig, official_views
from vicreg.views import blur as blurring
from vicreg.views.augment import ColourPlan, augment
from vicreg.views.blur import BLUR_RADIUS_SIGMAS
from vicreg.views.view_parameters import Colour, draw_colour

PILLOW = [
    Image.fromarray(image[:320, offset : offset + 320]) for image in load_sample_images().images for offset in (0, 300)
]
PHOTOS = torch.stack([torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in PILLOW])
NUM = len(PHOTOS)
NEUTRAL = Colour(
    order=np.tile(np.arange(4, dtype=np.uint8), (NUM, 1)),
    brightness=np.ones(NUM, np.float32),
    contrast=np.ones(NUM, np.float32),
    saturation=np.ones(NUM, np.float32),
    hue=np.zeros(NUM, np.float32),
    grayscale=np.zeros(NUM, np.bool_),
    sigma_px=np.zeros(NUM, np.float32),
    solarize=np.zeros(NUM, np.bool_),
)
NO_ANGLES = np.zeros(NUM, np.float32)
FACTORS = [0.0, 0.6, 0.8, 1.2, 1.4]
SHIFTS = [-0.5, -0.1, -0.03, 0.05, 0.1]


def _changed(one_by_one: bool = False, angles: np.ndarray = NO_ANGLES, **changes: object) -> Tensor:
    """The photos after some changes, in 255ths."""
    arrays = {
        name: np.full(NUM, value, getattr(NEUTRAL, name).dtype) if np.isscalar(value) else value
        for name, value in changes.items()
    }
    plan = ColourPlan.build(dataclasses.replace(NEUTRAL, **arrays), angles, one_by_one)
    return augment(PHOTOS, plan, (0, 0, 0), (1, 1, 1)) * 255


def _from_pillow(change: Callable[[Image.Image], Image.Image]) -> Tensor:
    return torch.stack([torch.from_numpy(np.array(change(image))).permute(2, 0, 1) for image in PILLOW]).float()


def test_without_changes_the_values_are_kept_and_normalised() -> None:
    assert torch.allclose(_changed(), PHOTOS.float(), atol=1e-4)
    config = DataConfig()
    plan = ColourPlan.build(NEUTRAL, NO_ANGLES)
    assert not plan.blocks[0].stages
    ours = augment(PHOTOS, plan, config.mean, config.std)
    expected = reference.normalize(PHOTOS.float() / 255, list(config.mean), list(config.std))
    assert ours.dtype == torch.float32
    assert torch.allclose(ours, expected, atol=1e-5)


def test_operations_that_are_off_are_not_run() -> None:
    view = ViewConfig(jitter_p=0, grayscale_p=0, blur_p=0, solarize_p=0)
    plan = ColourPlan.build(draw_colour(view, 0, 0, np.arange(50), 0), np.zeros(50, np.float32), one_by_one=True)
    assert len(plan.blocks) == 50
    assert not any(block.stages for block in plan.blocks)


@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize(
    ("name", "adjust", "to_tensor", "to_pillow"),
    [
        ("brightness", reference.adjust_brightness, 0.01, 1.01),
        ("contrast", reference.adjust_contrast, 0.51, 1.01),  # Pillow rounds the mean that torchvision does not
        ("saturation", reference.adjust_saturation, 0.04, 1.51),  # torchvision rounds the weights of gray to 4 digits
    ],
)
def test_factors(
    name: str, adjust: Callable[..., Tensor | Image.Image], to_tensor: float, to_pillow: float, factor: float
) -> None:
    ours = _changed(**{name: factor})
    assert (ours - adjust(PHOTOS.float() / 255, factor) * 255).abs().max() <= to_tensor
    assert (ours - _from_pillow(lambda image: adjust(image, factor))).abs().max() <= to_pillow


@pytest.mark.parametrize("shift", SHIFTS)
def test_hue(shift: float) -> None:
    """Exact beside torchvision's tensors; Pillow rounds to 256 hues and 8 bits: up to 14, 1 on average."""
    ours = _changed(hue=shift)
    assert (ours - reference.adjust_hue(PHOTOS.float() / 255, shift) * 255).abs().max() <= 0.01
    difference = (ours - _from_pillow(lambda image: reference.adjust_hue(image, shift))).abs()
    assert difference.max() <= 14
    assert difference.mean() <= 1


def test_hue_of_grays_and_of_pure_colours() -> None:
    colours = [
        (0, 0, 0),
        (255, 255, 255),
        (90, 90, 90),
        (255, 0, 0),
        (0, 255, 0),
        (0, 0, 255),
        (255, 255, 0),
        (7, 7, 8),
    ]
    image = torch.tensor(colours, dtype=torch.uint8).t().reshape(1, 3, 2, 4)
    for shift in SHIFTS:
        one = Colour(*(getattr(NEUTRAL, field.name)[:1] for field in dataclasses.fields(Colour)))
        plan = ColourPlan.build(dataclasses.replace(one, hue=np.array([shift], np.float32)), NO_ANGLES[:1])
        expected = reference.adjust_hue(image.float() / 255, shift)
        assert torch.allclose(augment(image, plan, (0, 0, 0), (1, 1, 1)), expected, atol=1e-5)


def test_grayscale_and_solarize() -> None:
    """Grayscale within rounding, solarise exact."""
    gray = _changed(grayscale=True)
    assert (gray - _from_pillow(lambda image: reference.to_grayscale(image, 3))).abs().max() <= 0.501
    solarized = _from_pillow(lambda image: ImageOps.solarize(image, 128))
    assert (_changed(solarize=True) - solarized).abs().max() <= 1e-3


@pytest.mark.parametrize("sigma", [0.1, 0.25, 0.5, 1.0, 1.5, 2.0])
def test_blur(sigma: float) -> None:
    """torchvision's Gaussian exactly, where borders are continued alike and kernels are cut off alike.

    Beside torchvision's 23 px kernel (the paper's): 0.3. Beside Pillow, who puts three boxes for a Gaussian and rounds
    after each: 0.8 on average, at sharp edges up to 12, for a sigma below 0.5 up to 22 (a sampled Gaussian is narrower
    than Pillow's), and in the 8 px at the border, which Pillow continues three times instead of once, up to 30.
    """
    ours = _changed(sigma_px=sigma)
    padded = torch.nn.functional.pad(PHOTOS.float(), (12,) * 4, mode="replicate")
    for size, tolerance in [(2 * math.ceil(BLUR_RADIUS_SIGMAS * sigma) + 1, 1e-3), (23, 0.3)]:
        expected = reference.gaussian_blur(padded, [size, size], [sigma, sigma])[..., 12:-12, 12:-12]
        assert (ours - expected).abs().max() <= tolerance
    difference = (ours - _from_pillow(lambda image: image.filter(ImageFilter.GaussianBlur(sigma)))).abs()
    assert difference.mean() <= 0.8
    assert difference.max() <= 30
    assert difference[..., 8:-8, 8:-8].max() <= (12 if sigma >= 0.5 else 22)


@pytest.mark.parametrize(("size", "largest_px"), [(24, 2.0), (9, 6.0)])
def test_a_gpus_blur_is_the_same(size: int, largest_px: float) -> None:
    """Products with matrices, also where the kernel is wider than the image."""
    torch.manual_seed(0)
    sigmas = torch.rand(7, 1, 1, 1, dtype=torch.float64) * largest_px + 0.1
    by_shifts = torch.rand(7, 3, size, size, dtype=torch.float64)
    by_products = by_shifts.clone(memory_format=torch.channels_last)
    radius_px = math.ceil(3 * float(sigmas.max()))
    blurring.blur(by_shifts, sigmas, radius_px)
    with patch.object(blurring, "_blur_by_shifts", blurring.blur_by_products):
        blurring.blur(by_products, sigmas, radius_px)
    torch.testing.assert_close(by_products, by_shifts, rtol=1e-12, atol=1e-12)


def test_rotation() -> None:
    angles = np.array([0.3, -0.3, 0.0, 1.0], np.float32)
    ours = _changed(angles=angles)
    for number, angle in enumerate(angles.tolist()):
        expected = reference.rotate(PHOTOS[number].float(), math.degrees(angle), InterpolationMode.BILINEAR)
        assert (ours[number] - expected).abs().max() <= 0.05


def _reference_chain(image: Tensor, colour: Colour, sample: int) -> Tensor:
    """torchvision's functions, one after the other, on one image of values from 0 to 1."""
    jitter = (reference.adjust_brightness, reference.adjust_contrast, reference.adjust_saturation, reference.adjust_hue)
    amounts = (colour.brightness, colour.contrast, colour.saturation, colour.hue)
    for change in colour.order[sample]:
        image = jitter[change](image, float(amounts[change][sample]))
    if colour.grayscale[sample]:
        image = reference.rgb_to_grayscale(image, 3)
    if sigma := float(colour.sigma_px[sample]):
        size = 2 * math.ceil(BLUR_RADIUS_SIGMAS * sigma) + 1
        padded = torch.nn.functional.pad(image[None], (12,) * 4, mode="replicate")
        image = reference.gaussian_blur(padded, [size, size], [sigma, sigma])[0, :, 12:-12, 12:-12]
    return reference.solarize(image, 0.5) if colour.solarize[sample] else image


@pytest.mark.parametrize("one_by_one", [True, False])
def test_all_operations_in_their_order(one_by_one: bool) -> None:
    """Within 1/255 of torchvision's functions in the drawn order (the mean that contrast rounds makes most of it)."""
    num = 24
    views = PHOTOS[torch.arange(num) % NUM, :, :100, 50:150]
    for view in official_views():
        colour = draw_colour(view, 1, 2, np.arange(num), 0)
        plan = ColourPlan.build(colour, np.zeros(num, np.float32), one_by_one)
        ours = augment(views, plan, (0, 0, 0), (1, 1, 1))
        for sample in range(num):
            expected = _reference_chain(views[sample].float() / 255, colour, sample)
            assert (ours[sample] - expected).abs().max() <= 1 / 255


@pytest.mark.parametrize("form", ["CPU", "GPU"])
@pytest.mark.parametrize("size", [8, 33, 64])
def test_a_samples_result_does_not_depend_on_its_batch(size: int, form: str) -> None:
    """Bit for bit, blur included: so that a view is the same on any number of ranks."""
    num = 40
    views = PHOTOS[torch.arange(num) % NUM, :, 100 : 100 + size, 50 : 50 + size]
    view = ViewConfig(blur_p=0.6, solarize_p=0.3, rotation_deg=15)
    colour = draw_colour(view, 0, 0, np.arange(num), 0)
    angles = np.linspace(-0.2, 0.2, num).astype(np.float32)

    def of(some: np.ndarray, one_by_one: bool = False) -> Tensor:
        part = Colour(*(getattr(colour, field.name)[some] for field in dataclasses.fields(Colour)))
        plan = ColourPlan.build(part, angles[some], one_by_one)
        blur = blurring.blur_by_products if form == "GPU" else blurring._blur_by_shifts
        with patch.object(blurring, "_blur_by_shifts", blur):
            return augment(views[some], plan, (0.5,) * 3, (0.2,) * 3)

    whole = of(np.arange(num))
    assert torch.equal(of(np.arange(num), one_by_one=True), whole)
    for some in [*np.split(np.arange(num), 4), *np.split(np.arange(num), 40), np.array([3, 17, 18, 39])]:
        assert torch.equal(of(some), whole[some])


def test_memory_layouts_and_the_views_themselves() -> None:
    """Channels-last views give the same, and the views given are left as they are."""
    colour = draw_colour(official_views()[0], 0, 0, np.arange(NUM), 0)
    plan = ColourPlan.build(colour, NO_ANGLES)
    before = PHOTOS.clone()
    planar = augment(PHOTOS, plan, (0, 0, 0), (1, 1, 1))
    last = augment(PHOTOS.contiguous(memory_format=torch.channels_last), plan, (0, 0, 0), (1, 1, 1))
    assert torch.equal(planar, last)
    assert torch.equal(PHOTOS, before)
    assert planar.is_contiguous()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("angle_rad", [0.0, 0.1])
def test_a_gpu_gives_the_same(angle_rad: float) -> None:
    view = ViewConfig(blur_p=0.6, solarize_p=0.3)
    colour, angles = draw_colour(view, 0, 0, np.arange(NUM), 0), np.full(NUM, angle_rad, np.float32)
    plan, cuda = ColourPlan.build(colour, angles), torch.device("cuda")
    on_cpu = augment(PHOTOS, plan, (0, 0, 0), (1, 1, 1))
    on_gpu = augment(PHOTOS.to(cuda), plan.to(cuda), (0, 0, 0), (1, 1, 1)).cpu()
    assert (on_cpu - on_gpu).abs().max() <= 1 / 255
