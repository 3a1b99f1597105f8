"""Cropping and resizing real photos: torchvision's result, on tensors and on Pillow images, on CPU and as products."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_sample_images
from torch import Tensor
from torchvision.transforms import CenterCrop, Resize
from torchvision.transforms.v2 import functional

from vicreg.config import ViewConfig
from vicreg.views.resample import (
    Interpolation,
    crop_resize,
    crop_resize_into,
    resize_centre_into,
    resized_shape,
    squash_into,
)
from vicreg.views.view_parameters import draw_geometry

PHOTOS = [image.copy() for image in load_sample_images().images]  # 427 x 640
MODES: dict[Interpolation, functional.InterpolationMode] = {
    "bicubic": functional.InterpolationMode.BICUBIC,
    "bilinear": functional.InterpolationMode.BILINEAR,
}
PIL_MODES = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
BOXES = [
    *draw_geometry(ViewConfig(), 0, 0, np.arange(12), 0, np.full(12, 640), np.full(12, 427)).boxes.tolist(),
    [0, 0, 427, 640],
    [100, 50, 8, 8],
    [426, 639, 1, 1],
    [3, 5, 1, 90],
]


def _ours(photo: NDArray[np.uint8], box: list[int], size: int, flip: bool, mode: Interpolation) -> NDArray[np.uint8]:
    out = torch.empty(size, size, 3, dtype=torch.uint8)
    crop_resize_into(out, photo, box, flip, mode)
    return out.numpy()


def _channels_first(photo: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(photo).permute(2, 0, 1)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [224, 32])
def test_crops_equal_torchvisions_for_uint8_tensors(mode: Interpolation, size: int) -> None:
    """No tolerance: the kernel is the same."""
    for number, box in enumerate(BOXES):
        photo = PHOTOS[number % 2]
        expected = functional.resized_crop(_channels_first(photo), *box, [size, size], MODES[mode], antialias=True)
        assert np.array_equal(_ours(photo, box, size, False, mode), expected.permute(1, 2, 0).numpy())


@pytest.mark.parametrize("mode", MODES)
def test_crops_are_within_1_of_pillows(mode: Interpolation) -> None:
    """Within 1/255 for all but 2 in 1,000 values; there up to 8, where Pillow takes the vertical pass first.

    Both round to 8 bits between the passes, and bicubic overshoots are cut off in between.
    """
    differences = []
    for number, box in enumerate(BOXES):
        photo, (top, left, height, width) = PHOTOS[number % 2], box
        crop = Image.fromarray(photo).crop((left, top, left + width, top + height))
        expected = np.asarray(crop.resize((224, 224), PIL_MODES[mode])).astype(int)
        differences.append(abs(_ours(photo, box, 224, False, mode) - expected).ravel())
    together = np.concatenate(differences)
    assert (together > 1).mean() < 0.002
    assert together.max() <= (8 if mode == "bicubic" else 1)
    assert together.mean() < 0.15


def test_a_mirrored_crop_is_the_crop_mirrored() -> None:
    for box in BOXES:
        straight, mirrored = (_ours(PHOTOS[0], box, 96, flip, "bicubic") for flip in (False, True))
        assert np.array_equal(mirrored, straight[:, ::-1])


def test_padded_rows_change_nothing() -> None:
    padded = np.zeros((500, 700, 3), np.uint8)
    padded[:427, :640] = PHOTOS[1]
    for box in BOXES:
        whole, part = (_ours(photo, box, 64, True, "bicubic") for photo in (PHOTOS[1], padded[:427, :640]))
        assert np.array_equal(whole, part)


def test_digits_are_enlarged() -> None:
    digit = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    ours = _ours(digit, [1, 0, 6, 7], 32, False, "bicubic").astype(int)
    expected = np.asarray(Image.fromarray(digit[1:7, 0:7]).resize((32, 32), Image.Resampling.BICUBIC))
    assert abs(ours - expected).max() <= 2  # noise overshoots more than photos do
    assert np.array_equal(_ours(digit, [0, 0, 8, 8], 8, False, "bicubic"), digit)


@pytest.mark.parametrize("shape", [(427, 640), (300, 401), (333, 224), (256, 256), (8, 8), (40, 100), (427, 60)])
@pytest.mark.parametrize(("short_side", "size"), [(256, 224), (232, 224), (40, 32), (8, 8)])
def test_evaluation_is_torchvisions_resize_and_centre_crop(shape: tuple[int, int], short_side: int, size: int) -> None:
    """Within 1/255 of Pillow's image, and exactly that of a uint8 tensor."""
    photo = np.ascontiguousarray(PHOTOS[0][: shape[0], : shape[1]])
    out = torch.empty(size, size, 3, dtype=torch.uint8)
    resize_centre_into(out, photo, short_side)
    pillow = CenterCrop(size)(Resize(short_side)(Image.fromarray(photo)))
    resized = functional.resize(_channels_first(photo), [short_side], MODES["bilinear"], antialias=True)
    assert resized_shape(*shape, short_side) == tuple(resized.shape[1:])
    assert np.array_equal(out.numpy(), functional.center_crop(resized, [size, size]).permute(1, 2, 0).numpy())
    assert abs(out.numpy().astype(int) - np.asarray(pillow)).max() <= 1


@pytest.mark.parametrize("shape", [(427, 640), (300, 401), (256, 256), (8, 8), (427, 60)])
@pytest.mark.parametrize(("short_side", "size"), [(256, 224), (40, 32)])
def test_squashing_is_torchvisions_two_resizes(shape: tuple[int, int], short_side: int, size: int) -> None:
    """Within 2/255 of Pillow's image (two roundings), and exactly that of a uint8 tensor."""
    photo = np.ascontiguousarray(PHOTOS[0][: shape[0], : shape[1]])
    out = torch.empty(size, size, 3, dtype=torch.uint8)
    squash_into(out, photo, short_side)
    pillow = Resize((size, size))(Resize(short_side)(Image.fromarray(photo)))
    resized = functional.resize(_channels_first(photo), [short_side], MODES["bilinear"], antialias=True)
    expected = functional.resize(resized, [size, size], MODES["bilinear"], antialias=True)
    assert np.array_equal(out.numpy(), expected.permute(1, 2, 0).numpy())
    assert abs(out.numpy().astype(int) - np.asarray(pillow)).max() <= 2


def _products(mode: Interpolation, size: int, flip: Tensor) -> Tensor:
    batch = torch.stack([_channels_first(PHOTOS[number % 2]) for number in range(len(BOXES))])
    return crop_resize(batch, torch.tensor(BOXES), flip, size, mode)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [224, 32])
def test_matrix_products_equal_torchvisions_in_floating_point(mode: Interpolation, size: int) -> None:
    """But for the rounding to integers, where a value half way between two may go either way."""
    flip = torch.arange(len(BOXES)) % 3 == 0
    ours = _products(mode, size, flip)
    for number, (top, left, height, width) in enumerate(BOXES):
        crop = _channels_first(PHOTOS[number % 2])[None, :, top : top + height, left : left + width].float()
        resized = torch.nn.functional.interpolate(crop, (size, size), mode=mode, antialias=True)
        expected = resized.clamp(0, 255)[0]
        difference = (ours[number] - (expected.flip(-1) if flip[number] else expected)).abs()
        assert difference.max() <= 0.502


def test_matrix_products_are_close_to_the_kernel() -> None:
    """The kernel rounds between its passes: within 1 for all but 1 in 1,000 values, 8 at most."""
    flip = torch.arange(len(BOXES)) % 2 == 0
    products = _products("bicubic", 96, flip).permute(0, 2, 3, 1).numpy().astype(int)
    for number, box in enumerate(BOXES):
        difference = abs(products[number] - _ours(PHOTOS[number % 2], box, 96, bool(flip[number]), "bicubic"))
        assert (difference > 1).mean() < 1e-3
        assert difference.max() <= 8


def test_matrix_products_in_blocks_and_from_padded_images(monkeypatch: pytest.MonkeyPatch) -> None:
    flip = torch.zeros(len(BOXES), dtype=torch.bool)
    whole = _products("bicubic", 32, flip)
    monkeypatch.setattr("vicreg.views.resample.DEVICE_BLOCK_BYTES", 3 * 427 * 640 * 4 * 5)
    assert torch.equal(_products("bicubic", 32, flip), whole)
    batch = torch.full((len(BOXES), 450, 700, 3), 255, dtype=torch.uint8).permute(0, 3, 1, 2)
    for number in range(len(BOXES)):
        batch[number, :, :427, :640] = _channels_first(PHOTOS[number % 2])
    assert (crop_resize(batch, torch.tensor(BOXES), flip, 32).int() - whole.int()).abs().max() <= 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_matrix_products_on_a_gpu() -> None:
    flip = torch.arange(len(BOXES)) % 2 == 0
    batch = torch.stack([_channels_first(PHOTOS[number % 2]) for number in range(len(BOXES))])
    on_gpu = crop_resize(batch.cuda(), torch.tensor(BOXES).cuda(), flip.cuda(), 224).cpu().int()
    assert (on_gpu - crop_resize(batch, torch.tensor(BOXES), flip, 224).int()).abs().max() <= 1
