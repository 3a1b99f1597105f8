"""RGB of a JPEG's planes on a GPU in one kernel, in Triton and in libjpeg's integers; see `planes.py`."""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

PIXELS = 1 << 10
"""Pixels of an image that a program makes."""


def rgb(luma: Tensor, chroma: Tensor) -> Tensor:
    """uint8 (B, 3, H, W) from luma (B, H, W) and chroma (B, 2, H / 2 + 1, W / 2 + 1)."""
    count, height, width = luma.shape
    out = torch.empty((count, 3, height, width), dtype=torch.uint8, device=luma.device)
    grid = (count, triton.cdiv(height * width, PIXELS))
    _rgb[grid](luma.contiguous(), chroma.contiguous(), out, height, width, PIXELS)
    return out


def try_out(device: torch.device) -> None:
    """Two by two pixels of one colour; raises what keeps the kernel from working."""
    luma = torch.full((1, 2, 2), 100, dtype=torch.uint8, device=device)
    chroma = torch.full((1, 2, 2, 2), 128, dtype=torch.uint8, device=device)
    chroma[:, 1] = 228
    found = rgb(luma, chroma)[0, :, 1, 1].tolist()
    if found != [240, 29, 100]:
        raise RuntimeError(f"the pixel is {found}, not [240, 29, 100]")


@triton.jit
def _enlarged(plane, row, column, other_row, other_column, width, odd, inside):
    """A colour at twice the size: weights of 3/4 and 1/4 along both sides, rounded once (jdsample.c)."""
    here = 3 * tl.load(plane + row * width + column, mask=inside, other=0).to(tl.int32)
    here += tl.load(plane + other_row * width + column, mask=inside, other=0).to(tl.int32)
    beside = 3 * tl.load(plane + row * width + other_column, mask=inside, other=0).to(tl.int32)
    beside += tl.load(plane + other_row * width + other_column, mask=inside, other=0).to(tl.int32)
    return (3 * here + beside + tl.where(odd, 7, 8)) >> 4


@triton.jit
def _rgb(luma, chroma, out, height, width, pixels: tl.constexpr):
    image = tl.program_id(0).to(tl.int64)
    size, colour_width = height * width, width // 2 + 1
    colour_size = (height // 2 + 1) * colour_width
    places = tl.program_id(1) * pixels + tl.arange(0, pixels)
    inside = places < size
    y, x = places // width, places % width
    row, column = y // 2, x // 2
    other_row = tl.where(y % 2 == 1, row + 1, tl.maximum(row - 1, 0))
    other_column = tl.where(x % 2 == 1, column + 1, tl.maximum(column - 1, 0))
    odd = x % 2 == 1
    blues = chroma + image * 2 * colour_size
    cb = _enlarged(blues, row, column, other_row, other_column, colour_width, odd, inside) - 128
    cr = _enlarged(blues + colour_size, row, column, other_row, other_column, colour_width, odd, inside) - 128
    brightness = tl.load(luma + image * size + places, mask=inside, other=0).to(tl.int32)
    red = brightness + ((91881 * cr + 32768) >> 16)
    green = brightness + ((-22554 * cb - 46802 * cr + 32768) >> 16)
    blue = brightness + ((116130 * cb + 32768) >> 16)
    start = out + image * 3 * size + places
    tl.store(start, tl.minimum(tl.maximum(red, 0), 255).to(tl.uint8), mask=inside)
    tl.store(start + size, tl.minimum(tl.maximum(green, 0), 255).to(tl.uint8), mask=inside)
    tl.store(start + 2 * size, tl.minimum(tl.maximum(blue, 0), 255).to(tl.uint8), mask=inside)
