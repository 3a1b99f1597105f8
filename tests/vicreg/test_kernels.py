"""The GPU's colours, crop weights and RGB, run by Triton's interpreter on the CPU, against torch's own operations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.interpreted import CAPABILITIES, interpreted, ptx
from vicreg.config import DataConfig, ViewConfig, official_views
from vicreg.data.planes import Planes
from vicreg.views.augment import ColourPlan, augment
from vicreg.views.resample import Interpolation, _weights, _weights_on_device, crop_resize
from vicreg.views.view_parameters import draw_colour

pytest.importorskip("triton", reason="Triton comes with torch's CUDA builds")

BATCH, SIDE = 40, 36


def _coloured(view: ViewConfig, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand((BATCH, 3, 6, 6), generator=generator)
    views = torch.nn.functional.interpolate(coarse, (SIDE, SIDE), mode="bicubic").clamp(0, 1).mul(255).to(torch.uint8)
    views[0], views[1, 1:] = 255, 0  # white, and red alone
    colour = draw_colour(view, seed, 0, np.arange(BATCH), 0)
    plan = ColourPlan.build(colour, np.zeros(BATCH, np.float32))
    return augment(views.to(memory_format=torch.channels_last), plan, DataConfig.mean, DataConfig.std)


@pytest.mark.parametrize("number", [0, *(pytest.param(number, marks=pytest.mark.slow) for number in (1, 2))])
def test_colours_equal_torchs_operations(number: int) -> None:
    """Within a step of rounding where the mean gray lies between two integers; mostly within float32's."""
    view = [*official_views(), ViewConfig(jitter_p=1.0, grayscale_p=0.5, blur_p=0.5, solarize_p=0.5, hue=0.5)][number]
    apart = (interpreted(_coloured, view, 1) - _coloured(view, 1)).abs()
    assert apart.max() < 1 / 255 / min(DataConfig.std)
    assert apart.median() < 1e-5
    assert (apart > 1e-4).float().mean() < 0.05


def _band(mirrored: bool, interpolation: Interpolation, dtype: torch.dtype) -> Tensor:
    starts, lengths = torch.tensor([0.0, 7, 30, 3]), torch.tensor([64.0, 20, 5, 1])
    flip = torch.tensor([True, False, True, False]) if mirrored else None
    return _weights_on_device(starts, lengths, 70, 24, flip, interpolation, dtype)


@pytest.mark.parametrize(
    ("interpolation", "mirrored"),
    [
        ("bicubic", True),
        *(
            pytest.param(*each, marks=pytest.mark.slow)
            for each in (("bicubic", False), ("bilinear", False), ("bilinear", True))
        ),
    ],
)
def test_crop_weights_equal_torchs_operations(interpolation: Interpolation, mirrored: bool) -> None:
    torch.testing.assert_close(
        interpreted(_band, mirrored, interpolation, torch.float32),
        _band(mirrored, interpolation, torch.float32),
        rtol=1e-4,
        atol=2e-6,
    )


def _crops() -> Tensor:
    images = torch.randint(256, (3, 3, 50, 60), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    boxes = torch.tensor([[0, 0, 50, 60], [10, 20, 7, 9], [49, 59, 1, 1]])
    return crop_resize(images, boxes, torch.tensor([False, True, False]), 16)


def test_crops_are_the_same() -> None:
    assert (interpreted(_crops).int() - _crops().int()).abs().max() <= 1
    assert _weights(torch.zeros(1), torch.ones(1), 1, 1, None, "bicubic").item() == 1


def _rgb(height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    luma = torch.randint(256, (3, height, width), dtype=torch.uint8, generator=generator)
    shape = (3, 2, height // 2 + 1, width // 2 + 1)
    return Planes(luma, torch.randint(256, shape, dtype=torch.uint8, generator=generator), {}).rgb()


@pytest.mark.parametrize(("height", "width"), [(2, 2), (46, 70)])
def test_rgb_of_planes_is_the_same_to_the_bit(height: int, width: int) -> None:
    assert torch.equal(interpreted(_rgb, height, width), _rgb(height, width))


@pytest.mark.slow
@pytest.mark.parametrize("capability", CAPABILITIES)
def test_they_compile_for_gpus(capability: int) -> None:
    from vicreg.data import plane_kernels
    from vicreg.views import colour_kernels, crop_kernels

    table, numbers = {"settings": "*fp32"}, {"scale": "*fp32", "offset": "*fp32"}
    constants = {"pixels": colour_kernels.PIXELS}
    means = {"images": "*u8"} | table | {"means": "*fp32", "size": "i32"}
    colours = {"images": "*u8"} | table | {"means": "*fp32"} | numbers | {"out": "*fp32", "size": "i32"}
    finish = {"images": "*fp32"} | table | numbers | {"size": "i32"}
    for kernel, signature in (
        (colour_kernels._means, means),
        (colour_kernels._colours, colours),
        (colour_kernels._finish, finish),
    ):
        assert "st.global" in ptx(kernel, signature, constants, capability)
    planes = {"luma": "*u8", "chroma": "*u8", "out": "*u8", "height": "i32", "width": "i32"}
    assert "st.global" in ptx(plane_kernels._rgb, planes, constants, capability)
    weights = {"out": "*fp16", "starts": "*fp32", "lengths": "*fp32", "mirrored": "*fp32"}
    weights |= {"num_in": "i32", "num_out": "i32"}
    assert "st.global" in ptx(crop_kernels._weights, weights, {"bicubic": True, "block": 512}, capability)
