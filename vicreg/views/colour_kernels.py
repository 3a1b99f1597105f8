"""Colours of a view on a GPU in three kernels around the blur, in Triton: torch's operations would take some 150.

The same arithmetic as in `augment.py`, for each pixel in the order that its image has drawn. Contrast wants the mean of
the whole image as it is by then, so one kernel finds the means before another changes the values.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

NUM_COLUMNS = 11
"""Of the table of settings, float32 (B, 11): four operations in their order (0 brightness, 1 contrast, 2 saturation,
3 hue, -1 none), their four amounts, whether grayscale, sigma of the blur, whether solarised."""
PIXELS = 1 << 10
"""Pixels of an image that a program works on at a time."""
_RED, _GREEN, _BLUE = tl.constexpr(19595 / 65536), tl.constexpr(38470 / 65536), tl.constexpr(7471 / 65536)
_COLUMNS = tl.constexpr(NUM_COLUMNS)


def before_blur(views: Tensor, settings: Tensor, scale: Tensor, offset: Tensor) -> Tensor:
    """Float32 (B, 3, S, S) of uint8 views: finished where there is no blur, else what is to be blurred.

    scale, offset: of the normalisation, float32 with three values.
    """
    images = views.contiguous()
    count, _, height, width = images.shape
    out = torch.empty(images.shape, dtype=torch.float32, device=images.device)
    means = torch.empty(count, device=images.device)
    _means[(count,)](images, settings, means, height * width, PIXELS)
    grid = (count, triton.cdiv(height * width, PIXELS))
    _colours[grid](images, settings, means, scale, offset, out, height * width, PIXELS)
    return out


def after_blur(images: Tensor, settings: Tensor, scale: Tensor, offset: Tensor) -> None:
    """Solarise and normalise, in place, the images that have been blurred."""
    size = images.shape[2] * images.shape[3]
    _finish[(len(images), triton.cdiv(size, PIXELS))](images, settings, scale, offset, size, PIXELS)


def try_out(device: torch.device) -> None:
    """Two pixels through all kernels; raises what keeps them from working."""
    views = torch.tensor([0, 255], dtype=torch.uint8, device=device).expand(1, 3, 1, 2)
    settings = torch.tensor([[0, 1, 2, 3, 0.5, 1.0, 1.0, 0.0, 1, 1, 1]], device=device)
    one, zero = torch.ones(3, device=device), torch.zeros(3, device=device)
    images = before_blur(views, settings, one, zero)
    after_blur(images, settings, 2 * one, one)
    found = images[0, 0, 0].tolist()
    if max(abs(found[0] - 1), abs(found[1] - 2)) > 1e-3:
        raise RuntimeError(f"the colours are {found}, not 1 and 2")


@triton.jit
def _change(red, green, blue, operation, amount, mean):
    """One of the four changes of all values of a block."""
    if operation == 0:
        red, green, blue = red * amount, green * amount, blue * amount
    elif operation == 1:
        rest = mean * (1 - amount)
        red, green, blue = red * amount + rest, green * amount + rest, blue * amount + rest
    elif operation == 2:
        rest = (red * _RED + green * _GREEN + blue * _BLUE) * (1 - amount)
        red, green, blue = red * amount + rest, green * amount + rest, blue * amount + rest
    elif operation == 3:
        value = tl.maximum(tl.maximum(red, green), blue)
        chroma = value - tl.minimum(tl.minimum(red, green), blue)
        sixths = tl.where(value == green, blue - red + 2 * chroma, red - green + 4 * chroma)
        sixths = tl.where(value == red, green - blue, sixths) / tl.maximum(chroma, 1e-12)
        place = amount + sixths / 6
        of_red, of_green, of_blue = place + (2 - 1 / 2), place + (2 - 5 / 6), place + (2 - 1 / 6)
        red = value + chroma - 6 * chroma * _clamped(tl.abs(of_red - tl.floor(of_red) - 0.5))
        green = value + chroma - 6 * chroma * _clamped(tl.abs(of_green - tl.floor(of_green) - 0.5))
        blue = value + chroma - 6 * chroma * _clamped(tl.abs(of_blue - tl.floor(of_blue) - 0.5))
    if (operation >= 0) & (operation < 3):
        red = tl.minimum(tl.maximum(red, 0.0), 1.0)
        green = tl.minimum(tl.maximum(green, 0.0), 1.0)
        blue = tl.minimum(tl.maximum(blue, 0.0), 1.0)
    return red, green, blue


@triton.jit
def _clamped(apart):
    return tl.minimum(tl.maximum(apart, 1 / 6), 1 / 3)


@triton.jit
def _means(images, settings, means, size, pixels: tl.constexpr):
    """The rounded mean of each image's gray as contrast will find it; nothing for images without contrast."""
    image = tl.program_id(0)
    row = settings + image * _COLUMNS
    contrast = 4
    for step in tl.static_range(4):
        contrast = tl.where(tl.load(row + step) == 1, step, contrast)
    if contrast < 4:
        total = tl.zeros((pixels,), tl.float32)
        plane = images + image.to(tl.int64) * 3 * size
        for begin in range(0, size, pixels):
            places = begin + tl.arange(0, pixels)
            inside = places < size
            red = tl.load(plane + places, mask=inside, other=0).to(tl.float32) / 255
            green = tl.load(plane + size + places, mask=inside, other=0).to(tl.float32) / 255
            blue = tl.load(plane + 2 * size + places, mask=inside, other=0).to(tl.float32) / 255
            for step in tl.static_range(3):
                if step < contrast:
                    operation, amount = tl.load(row + step), tl.load(row + 4 + step)
                    red, green, blue = _change(red, green, blue, operation, amount, 0.0)
            gray = red * _RED + green * _GREEN + blue * _BLUE
            total += tl.where(inside, gray, 0.0)
        mean = tl.sum(total, axis=0) / size
        tl.store(means + image, tl.floor(mean * 255 + 0.5) / 255)


@triton.jit
def _colours(images, settings, means, scale, offset, out, size, pixels: tl.constexpr):
    image = tl.program_id(0)
    row = settings + image * _COLUMNS
    places = tl.program_id(1) * pixels + tl.arange(0, pixels)
    inside = places < size
    plane = image.to(tl.int64) * 3 * size
    red = tl.load(images + plane + places, mask=inside, other=0).to(tl.float32) / 255
    green = tl.load(images + plane + size + places, mask=inside, other=0).to(tl.float32) / 255
    blue = tl.load(images + plane + 2 * size + places, mask=inside, other=0).to(tl.float32) / 255
    mean = tl.load(means + image)
    for step in tl.static_range(4):
        red, green, blue = _change(red, green, blue, tl.load(row + step), tl.load(row + 4 + step), mean)
    if tl.load(row + 8) != 0:
        gray = red * _RED + green * _GREEN + blue * _BLUE
        red, green, blue = gray, gray, gray
    if tl.load(row + 9) == 0:
        solarised = tl.load(row + 10) != 0
        red = tl.where(solarised, tl.minimum(red, 1 - red), red) * tl.load(scale) + tl.load(offset)
        green = tl.where(solarised, tl.minimum(green, 1 - green), green) * tl.load(scale + 1) + tl.load(offset + 1)
        blue = tl.where(solarised, tl.minimum(blue, 1 - blue), blue) * tl.load(scale + 2) + tl.load(offset + 2)
    tl.store(out + plane + places, red, mask=inside)
    tl.store(out + plane + size + places, green, mask=inside)
    tl.store(out + plane + 2 * size + places, blue, mask=inside)


@triton.jit
def _finish(images, settings, scale, offset, size, pixels: tl.constexpr):
    image = tl.program_id(0)
    row = settings + image * _COLUMNS
    if tl.load(row + 9) != 0:
        places = tl.program_id(1) * pixels + tl.arange(0, pixels)
        inside = places < size
        solarised = tl.load(row + 10) != 0
        for channel in tl.static_range(3):
            values = images + (image.to(tl.int64) * 3 + channel) * size + places
            value = tl.load(values, mask=inside, other=0.0)
            value = tl.where(solarised, tl.minimum(value, 1 - value), value)
            tl.store(values, value * tl.load(scale + channel) + tl.load(offset + channel), mask=inside)
