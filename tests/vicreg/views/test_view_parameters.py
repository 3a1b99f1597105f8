"""Crop boxes and colour parameters: torchvision's distributions, and functions of (seed, epoch, sample, view) alone."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats
from torchvision.transforms import ColorJitter, RandomResizedCrop

from vicreg.config import ViewConfig, official_views, paper_views
from vicreg.views.view_parameters import Colour, Geometry, Jitter, draw_colour, draw_geometry

NUM = 4_000
SAMPLES = np.arange(NUM, dtype=np.int64)
P_MIN = 1e-3
GOLDEN_BOXES = [[47, 85, 285, 296], [134, 12, 317, 324], [6, 9, 12, 16]]
GOLDEN_FLIPS = [False, False, True]
GOLDEN_ORDERS = [[0, 1, 3, 2], [0, 1, 2, 3], [1, 3, 0, 2]]
GOLDEN_HUES = [0.01027972, 0.01285886, -0.08834561]


def _geometry(view: ViewConfig, width: int = 500, height: int = 375, number: int = 0) -> Geometry:
    return draw_geometry(view, 0, 0, SAMPLES, number, np.full(NUM, width), np.full(NUM, height))


def _torchvision_boxes(view: ViewConfig, width: int, height: int) -> NDArray[np.int64]:
    torch.manual_seed(0)
    image = torch.empty(3, height, width)
    return np.array([RandomResizedCrop.get_params(image, view.crop_scale, view.crop_ratio) for _ in range(NUM)])


@pytest.mark.parametrize(
    ("width", "height", "scale"),
    [
        (500, 375, (0.08, 1.0)),
        (375, 500, (0.08, 1.0)),
        (32, 32, (0.2, 1.0)),
        (500, 120, (0.08, 1.0)),
        (8, 8, (0.5, 1.0)),
    ],
)
def test_boxes_are_distributed_as_torchvisions(width: int, height: int, scale: tuple[float, float]) -> None:
    view = ViewConfig(crop_scale=scale)
    ours, theirs = _geometry(view, width, height).boxes, _torchvision_boxes(view, width, height)
    for name, column in [("top", 0), ("left", 1), ("height", 2), ("width", 3)]:
        assert stats.ks_2samp(ours[:, column], theirs[:, column]).pvalue > P_MIN, name
    areas = [boxes[:, 2] * boxes[:, 3] for boxes in (ours, theirs)]
    assert stats.ks_2samp(*areas).pvalue > P_MIN
    assert stats.ks_2samp(ours[:, 3] / ours[:, 2], theirs[:, 3] / theirs[:, 2]).pvalue > P_MIN


def test_boxes_lie_inside_images_of_any_shape() -> None:
    rng = np.random.default_rng(0)
    widths, heights = rng.integers(1, 600, NUM), rng.integers(1, 600, NUM)
    boxes = draw_geometry(ViewConfig(), 0, 0, SAMPLES, 0, widths, heights).boxes
    assert boxes.dtype == np.int32
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2:] >= 1).all()
    assert (boxes[:, 0] + boxes[:, 2] <= heights).all()
    assert (boxes[:, 1] + boxes[:, 3] <= widths).all()


@pytest.mark.parametrize(("width", "height"), [(500, 20), (20, 500), (301, 299)])
def test_the_fallback_is_torchvisions_centre_crop(width: int, height: int) -> None:
    view = ViewConfig(crop_scale=(1.0, 1.0), crop_ratio=(0.9, 0.95))  # nothing of this area fits
    assert np.array_equal(_geometry(view, width, height).boxes[:10], _torchvision_boxes(view, width, height)[:10])


def test_flips_and_angles() -> None:
    geometry = _geometry(ViewConfig(hflip_p=0.3, rotation_deg=20))
    assert geometry.flip.mean() == pytest.approx(0.3, abs=0.03)
    limit = np.deg2rad(20)
    assert stats.kstest(geometry.angle_rad, stats.uniform(-limit, 2 * limit).cdf).pvalue > P_MIN
    assert not _geometry(ViewConfig(hflip_p=0, rotation_deg=0)).angle_rad.any()
    assert _geometry(ViewConfig(hflip_p=1)).flip.all()


def test_jitter_is_distributed_as_torchvisions() -> None:
    view = ViewConfig(jitter_p=1.0)
    colour = draw_colour(view, 0, 0, SAMPLES, 0)
    torch.manual_seed(0)
    transform = ColorJitter(view.brightness, view.contrast, view.saturation, view.hue)
    ranges = (transform.brightness, transform.contrast, transform.saturation, transform.hue)
    drawn = [ColorJitter.get_params(*ranges) for _ in range(NUM)]
    for place, values in enumerate((colour.brightness, colour.contrast, colour.saturation, colour.hue), start=1):
        assert stats.ks_2samp(values, [parameters[place] for parameters in drawn]).pvalue > P_MIN
    ours, theirs = (
        _order_counts(orders) for orders in (colour.order, np.array([order.numpy() for order, *_ in drawn]))
    )
    assert stats.chisquare(ours).pvalue > P_MIN  # 24 equally likely orders
    assert stats.chi2_contingency(np.stack([ours, theirs])).pvalue > P_MIN


def _order_counts(orders: NDArray[np.integer]) -> NDArray[np.int64]:
    codes = orders.astype(int) @ np.array([64, 16, 4, 1])
    _, counts = np.unique(codes, return_counts=True)
    assert len(counts) == 24
    return counts


@pytest.mark.parametrize("view", [*official_views(), paper_views()[0]])
def test_how_often_each_operation_runs(view: ViewConfig) -> None:
    colour = draw_colour(view, 0, 0, SAMPLES, 0)
    for applied, probability in [
        (colour.brightness != 1, view.jitter_p),
        (colour.grayscale, view.grayscale_p),
        (colour.sigma_px > 0, view.blur_p),
        (colour.solarize, view.solarize_p),
    ]:
        spread = 4 * np.sqrt(probability * (1 - probability) / NUM)
        assert applied.mean() == pytest.approx(probability, abs=spread + 1e-12)
    sigmas = colour.sigma_px[colour.sigma_px > 0]
    assert stats.kstest(sigmas, stats.uniform(0.1, 1.9).cdf).pvalue > P_MIN


def test_what_is_off_is_exactly_neutral() -> None:
    off = ViewConfig(jitter_p=0, grayscale_p=0, blur_p=0, solarize_p=0)
    colour = draw_colour(off, 0, 0, SAMPLES, 0)
    for values, neutral in [(colour.brightness, 1), (colour.contrast, 1), (colour.saturation, 1), (colour.hue, 0)]:
        assert (values == neutral).all()
    for applied in (colour.grayscale, colour.sigma_px, colour.solarize):
        assert not applied.any()
    weak = draw_colour(ViewConfig(jitter_p=1, brightness=0, hue=0), 0, 0, SAMPLES, 0)
    assert (weak.brightness == 1).all()
    assert (weak.hue == 0).all()
    assert (weak.contrast != 1).mean() > 0.99


def test_strong_jitter_stops_at_zero() -> None:
    colour = draw_colour(ViewConfig(jitter_p=1, brightness=1.0), 0, 0, SAMPLES, 0)
    assert colour.brightness.min() >= 0
    assert colour.brightness.max() <= 2


def _columns(drawn: Geometry | Colour) -> list[NDArray[np.generic]]:
    return [getattr(drawn, field.name) for field in dataclasses.fields(drawn)]


def test_parameters_do_not_depend_on_the_batch() -> None:
    rng = np.random.default_rng(1)
    widths, heights = rng.integers(50, 500, NUM), rng.integers(50, 500, NUM)
    view = ViewConfig(rotation_deg=10, blur_p=0.5, solarize_p=0.5)
    some = rng.permutation(NUM)[:100]
    for whole, part in [
        (
            draw_geometry(view, 4, 2, SAMPLES, 1, widths, heights),
            draw_geometry(view, 4, 2, SAMPLES[some], 1, widths[some], heights[some]),
        ),
        (draw_colour(view, 4, 2, SAMPLES, 1), draw_colour(view, 4, 2, SAMPLES[some], 1)),
    ]:
        for all_values, values in zip(_columns(whole), _columns(part), strict=True):
            assert np.array_equal(all_values[some], values)


@pytest.mark.parametrize("change", [{"seed": 1}, {"epoch": 1}, {"view_number": 1}])
def test_another_seed_epoch_or_view_draws_anew(change: dict[str, int]) -> None:
    keys = {"seed": 0, "epoch": 0, "view_number": 0}
    sizes = np.full(NUM, 300)
    view = ViewConfig()
    boxes = [
        draw_geometry(view, samples=SAMPLES, widths=sizes, heights=sizes, **chosen).boxes
        for chosen in (keys, keys | change)
    ]
    assert (boxes[0] == boxes[1]).all(axis=1).mean() < 0.01
    factors = [draw_colour(view, samples=SAMPLES, **chosen).contrast for chosen in (keys, keys | change)]
    assert abs(np.corrcoef(*factors)[0, 1]) < 0.08


def test_draws_of_one_view_are_uncorrelated() -> None:
    colour = draw_colour(ViewConfig(jitter_p=1, blur_p=1), 0, 0, SAMPLES, 0)
    boxes = _geometry(ViewConfig()).boxes
    columns = [
        colour.brightness,
        colour.contrast,
        colour.saturation,
        colour.hue,
        colour.sigma_px,
        boxes[:, 2] * boxes[:, 3],
    ]
    correlation = np.corrcoef(np.stack(columns)) - np.eye(len(columns))
    assert abs(correlation).max() < 0.07


def test_golden_parameters() -> None:
    """A change of these changes the augmentations of every run: do not update them lightly."""
    samples, widths, heights = np.array([0, 1, 1000]), np.array([500, 375, 32]), np.array([375, 500, 32])
    geometry = draw_geometry(ViewConfig(), 7, 3, samples, 1, widths, heights)
    colour = draw_colour(ViewConfig(jitter_p=1, blur_p=1), 7, 3, samples, 1)
    assert geometry.boxes.tolist() == GOLDEN_BOXES
    assert geometry.flip.tolist() == GOLDEN_FLIPS
    assert colour.order.tolist() == GOLDEN_ORDERS
    assert colour.hue.tolist() == pytest.approx(GOLDEN_HUES, abs=1e-7)
    assert Jitter(0) == Jitter.BRIGHTNESS
