"""Views of channels that are no colours beside slow loops in float64: crop, flip, brightness and contrast, blur.

And that they are functions of the sample alone: the same bits alone, in a batch and on any number of ranks.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from dataprep.beton.contract import open_beton
from tests import five_channels
from vicreg.config import DataConfig, ViewConfig, without_colours
from vicreg.data.batches import Batch
from vicreg.data.loaders import centre_batches, open_views
from vicreg.views.augment import ColourPlan, augment
from vicreg.views.blur import BLUR_RADIUS_SIGMAS
from vicreg.views.resample import Interpolation, crop_resize, crop_resize_into, resize_centre_into, squash_into
from vicreg.views.view_parameters import Colour, Draw, Jitter, draw_colour, draw_geometry

CPU = torch.device("cpu")
NUM, CHANNELS = 6, 5
RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.integers(0, 65536, (NUM, 30, 41, CHANNELS), dtype=np.uint16)
VALUES = RANDOM.random((NUM, CHANNELS, 16, 16), dtype=np.float32)
BOXES = [[0, 0, 30, 41], [3, 7, 20, 9], [10, 2, 5, 33], [29, 40, 1, 1], [4, 4, 16, 16], [0, 1, 29, 40]]
VIEW = without_colours(ViewConfig(crop_scale=(0.3, 1.0), blur_p=0.7, rotation_deg=10.0))


def _cubic(distance: float) -> float:
    """Keys's kernel with a = -1/2."""
    x = abs(distance)
    if x < 1:
        return (1.5 * x - 2.5) * x * x + 1
    return ((2.5 - 0.5 * x) * x - 4) * x + 2 if x < 2 else 0.0


def _linear(distance: float) -> float:
    return max(0.0, 1 - abs(distance))


def _resized(line: NDArray[np.float64], size: int, kernel: Interpolation) -> NDArray[np.float64]:
    """One row or column, antialiased: the kernel is as wide as the step where the step is more than a pixel."""
    scale, weigh = len(line) / size, {"bicubic": _cubic, "bilinear": _linear}[kernel]
    out = np.empty(size)
    for place in range(size):
        centre = (place + 0.5) * scale
        weights = [weigh((pixel + 0.5 - centre) / max(scale, 1.0)) for pixel in range(len(line))]
        out[place] = sum(w * v for w, v in zip(weights, line, strict=True)) / sum(weights)
    return out


def _slow_resize(image: NDArray[np.float64], height: int, width: int, kernel: Interpolation) -> NDArray[np.float64]:
    """(H, W, C) to (height, width, C)."""
    channels = []
    for channel in range(image.shape[2]):
        rows = np.stack([_resized(row, width, kernel) for row in image[..., channel]])
        channels.append(np.stack([_resized(column, height, kernel) for column in rows.T], axis=1))
    return np.clip(np.stack(channels, axis=2), 0, 1)


@pytest.mark.parametrize("kernel", ["bicubic", "bilinear"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_crops_equal_the_loop(kernel: Interpolation, dtype: type) -> None:
    for number, (top, left, height, width) in enumerate(BOXES):
        image = IMAGES[number].astype(dtype)
        out = torch.empty(12, 12, CHANNELS)
        crop_resize_into(out, image, BOXES[number], number % 2 == 1, kernel)
        crop = image[top : top + height, left : left + width] / np.iinfo(dtype).max
        expected = _slow_resize(crop, 12, 12, kernel)
        expected = expected[:, ::-1] if number % 2 else expected
        np.testing.assert_allclose(out.numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("kernel", ["bicubic", "bilinear"])
def test_crops_as_products_equal_those_in_threads(kernel: Interpolation) -> None:
    """The form for arrays on a GPU."""
    fractions = torch.from_numpy(IMAGES.astype(np.float32) / 65535).permute(0, 3, 1, 2)
    flip = torch.arange(NUM) % 2 == 1
    found = crop_resize(fractions, torch.tensor(BOXES), flip, 12, kernel)
    assert found.dtype == torch.float32
    for number in range(NUM):
        out = torch.empty(12, 12, CHANNELS)
        crop_resize_into(out, IMAGES[number], BOXES[number], bool(flip[number]), kernel)
        np.testing.assert_allclose(found[number].permute(1, 2, 0), out, atol=2e-6)


def test_whole_images_equal_the_loop() -> None:
    out = torch.empty(8, 8, CHANNELS)
    resize_centre_into(out, IMAGES[0], 10)
    expected = _slow_resize(IMAGES[0] / 65535, 10, 13, "bilinear")[1:9, 2:10]  # 41/30 x 10, rounded down; to even
    np.testing.assert_allclose(out.numpy(), expected, atol=1e-6)
    squash_into(out, IMAGES[0], 10)
    wide = _slow_resize(IMAGES[0] / 65535, 10, 13, "bilinear")
    np.testing.assert_allclose(out.numpy(), _slow_resize(wide, 8, 8, "bilinear"), atol=1e-6)


def _colour(**changes: object) -> Colour:
    neutral = Colour(
        order=np.tile(np.arange(4, dtype=np.uint8), (NUM, 1)),
        brightness=np.ones((NUM, CHANNELS), np.float32),
        contrast=np.ones((NUM, CHANNELS), np.float32),
        saturation=np.ones(NUM, np.float32),
        hue=np.zeros(NUM, np.float32),
        grayscale=np.zeros(NUM, np.bool_),
        sigma_px=np.zeros(NUM, np.float32),
        solarize=np.zeros(NUM, np.bool_),
    )
    return dataclasses.replace(neutral, **changes)


def _slow_blur(plane: NDArray[np.float64], sigma: float) -> NDArray[np.float64]:
    reach = math.ceil(BLUR_RADIUS_SIGMAS * sigma)
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    weights /= weights.sum()
    for axis in (0, 1):
        padded = np.pad(plane, [(reach, reach) if a == axis else (0, 0) for a in (0, 1)], mode="edge")
        plane = sum(w * np.take(padded, np.arange(k, k + plane.shape[axis]), axis) for k, w in enumerate(weights))
    return plane


def test_operations_equal_the_loop() -> None:
    """Each channel by its own factors, in the order drawn for the sample; then the blur, and the normalisation."""
    brightness, contrast = (RANDOM.uniform(0.4, 1.8, (NUM, CHANNELS)).astype(np.float32) for _ in range(2))
    order = np.stack([np.roll(np.arange(4, dtype=np.uint8), shift) for shift in range(NUM)])
    sigma = np.linspace(0.3, 2.0, NUM).astype(np.float32)
    colour = _colour(order=order, brightness=brightness, contrast=contrast, sigma_px=sigma)
    mean, std = (0.1, 0.2, 0.3, 0.4, 0.5), (0.5, 0.4, 0.3, 0.2, 0.1)
    expected = VALUES.astype(np.float64)
    for sample in range(NUM):
        for channel in range(CHANNELS):
            plane = expected[sample, channel]
            for operation in order[sample]:
                if operation == Jitter.BRIGHTNESS:
                    plane = np.clip(plane * float(brightness[sample, channel]), 0, 1)
                elif operation == Jitter.CONTRAST:
                    factor = float(contrast[sample, channel])
                    plane = np.clip(plane.mean() + (plane - plane.mean()) * factor, 0, 1)
            expected[sample, channel] = (_slow_blur(plane, float(sigma[sample])) - mean[channel]) / std[channel]
    views, no_angles = torch.from_numpy(VALUES), np.zeros(NUM, np.float32)
    alone = augment(views, ColourPlan.build(colour, no_angles, one_by_one=True), mean, std)
    together = augment(views, ColourPlan.build(colour, no_angles), mean, std)
    np.testing.assert_allclose(together.numpy(), expected, atol=1e-5)
    assert torch.equal(alone, together)


def test_one_channel_is_no_gray_of_three() -> None:
    values = torch.from_numpy(VALUES[:, :1])
    ones = np.full((NUM, 1), 0.5, np.float32)
    found = augment(values, ColourPlan.build(_colour(brightness=ones, contrast=ones), np.zeros(NUM)), (0.0,), (1.0,))
    bright = values.double() * 0.5
    expected = 0.5 * bright + 0.5 * bright.mean((2, 3), keepdim=True)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_each_channel_has_draws_of_its_own() -> None:
    samples = np.arange(4000)
    colour = draw_colour(dataclasses.replace(VIEW, jitter_p=1.0), 0, 0, samples, 0, channels=16)
    rgb = draw_colour(VIEW, 0, 0, samples, 0)
    assert colour.brightness.shape == colour.contrast.shape == (4000, 16)
    np.testing.assert_array_equal(colour.order, rgb.order)  # and all that is not of channels
    np.testing.assert_array_equal(colour.sigma_px, rgb.sigma_px)
    factors = np.concatenate([colour.brightness, colour.contrast], axis=1)
    assert factors.min() >= 0.6
    assert factors.max() < 1.4
    assert np.abs(np.corrcoef(factors.T) - np.eye(32)).max() < 0.08
    assert not {*range(Draw.CHANNELS, Draw.CHANNELS + 2 * 16)} & {*Draw} - {Draw.CHANNELS}
    geometry = draw_geometry(VIEW, 0, 0, samples, 0, np.full(4000, 40), np.full(4000, 30))
    assert len(geometry.boxes) == 4000


@pytest.fixture(scope="module")
def five(tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    """Betons of 36 and 12 images of five channels."""
    folder = five_channels.write(tmp_path_factory.mktemp("five"), 48)
    files = {split: str(folder / f"{split}.beton") for split in ("train", "val")}
    return DataConfig(**files, image_size=16, eval_resize=18, mean=(0.03,) * 5, std=(0.01,) * 5)


def _views(config: DataConfig, rank: int = 0, ranks: int = 1, workers: int = 1) -> dict[int, torch.Tensor]:
    """Finished views of each sample of an epoch."""
    loader = open_views(
        config,
        Path(config.train),
        (VIEW, dataclasses.replace(VIEW, image_size=104)),
        seed=3,
        global_batch=12,
        rank=rank,
        world_size=ranks,
        device=CPU,
        workers=workers,
    )
    found = {}
    for batch in loader.batches(1):
        assert all(view.dtype == torch.float32 and view.shape[1] == 5 for view in batch.views)
        views = [augment(*pair, config.mean, config.std) for pair in zip(batch.views, batch.colour, strict=True)]
        found |= {sample: [view[i] for view in views] for i, sample in enumerate(batch.samples.tolist())}
    loader.close()
    return {sample: torch.cat([view.flatten() for view in views]) for sample, views in found.items()}


def test_views_have_the_same_bits_on_any_number_of_ranks_and_threads(five: DataConfig) -> None:
    alone = _views(five)
    assert len(alone) == 36
    on_ranks = {sample: view for rank in range(3) for sample, view in _views(five, rank, 3, workers=2).items()}
    assert on_ranks.keys() == alone.keys()
    assert all(torch.equal(view, on_ranks[sample]) for sample, view in alone.items())
    by_blocks = dataclasses.replace(five, order="blocks", block_samples=4)
    assert all(torch.equal(view, alone[sample]) for sample, view in _views(by_blocks).items())


def test_an_array_of_one_size_gives_the_same_views(tmp_path: Path) -> None:
    for number in range(12):
        place = tmp_path / "images"
        place.mkdir(exist_ok=True)
        np.save(place / f"{number:02d}.npy", five_channels.image(12 * number))  # all 20 x 20
    from dataprep.write_ffcv import main

    assert main(["folder", "--root", str(place), "--out", str(tmp_path), "--num-workers", "0"]) == 0
    config = DataConfig(
        str(tmp_path / "train.beton"), "", image_size=16, eval_resize=16, mean=(0.0,) * 5, std=(1.0,) * 5
    )
    decoded, kept = _views(config), _views(dataclasses.replace(config, loader="array"))
    assert len(decoded) == 12
    assert all(torch.equal(view, kept[sample]) for sample, view in decoded.items())


def test_centres_are_those_of_the_beton(five: DataConfig) -> None:
    beton = open_beton(Path(five.val))
    (found,) = centre_batches(five, beton.path, range(12), batch_size=12, workers=2)
    for place, sample in enumerate(found[2].tolist()):
        out = torch.empty(16, 16, 5)
        resize_centre_into(out, beton.decode(sample), 18)
        assert torch.equal(found[0][place].permute(1, 2, 0), out)


def test_changes_of_colours_are_refused_by_name(five: DataConfig) -> None:
    def batches(view: ViewConfig) -> list[Batch]:
        sizes = {"seed": 0, "global_batch": 12, "rank": 0, "world_size": 1, "device": CPU, "workers": 1}
        return list(open_views(five, Path(five.train), (view,), **sizes).batches(0))

    for name in ("saturation", "hue", "grayscale_p", "solarize_p"):
        with pytest.raises(ValueError, match=rf"views.0.{name} is 0.3, allowed: 0 for images that are not RGB"):
            batches(dataclasses.replace(VIEW, **{name: 0.3}))
    with pytest.raises(ValueError, match=r"images of 5 channels of 16 bits, but data.mean has 3 numbers"):
        open_views(
            dataclasses.replace(five, mean=(0.5,) * 3, std=(0.5,) * 3),
            Path(five.train),
            (VIEW,),
            seed=0,
            global_batch=12,
            rank=0,
            world_size=1,
            device=CPU,
            workers=1,
        )
