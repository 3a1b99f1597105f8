"""The weights of antialiased resizing in one Triton kernel: torch's operations would pass over them 14 times."""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


def weights(
    starts: Tensor, lengths: Tensor, num_in: int, num_out: int, flip: Tensor | None, bicubic: bool, dtype: torch.dtype
) -> Tensor:
    """As `resample._weights`: (B, num_out, num_in) of that dtype; starts and lengths float32 (B,), flip bool (B,)."""
    count = len(starts)
    out = torch.empty((count, num_out, num_in), dtype=dtype, device=starts.device)
    mirrored = starts.new_zeros(count) if flip is None else flip.to(torch.float32)
    grid = (count * num_out,)
    block = triton.next_power_of_2(num_in)
    _weights[grid](out, starts.contiguous(), lengths.contiguous(), mirrored, num_in, num_out, bicubic, block)
    return out


def try_out(device: torch.device) -> None:
    """Weights of a stretch that keeps its size; raises what keeps the kernel from working."""
    ones = torch.ones(1, device=device)
    found = weights(ones, 2 * ones, 4, 2, None, True, torch.float32).tolist()
    if found != [[[0, 1, 0, 0], [0, 0, 1, 0]]]:
        raise RuntimeError(f"the weights are {found}")


@triton.jit
def _weights(out, starts, lengths, mirrored, num_in, num_out, bicubic: tl.constexpr, block: tl.constexpr):
    image = tl.program_id(0) // num_out
    place = tl.program_id(0) % num_out
    start, length = tl.load(starts + image), tl.load(lengths + image)
    here = tl.where(tl.load(mirrored + image) != 0, num_out - 1 - place, place)
    scale = length / num_out
    columns = tl.arange(0, block)
    pixels = columns.to(tl.float32) - start
    distances = tl.abs(pixels + 0.5 - (here + 0.5) * scale) / tl.maximum(scale, 1.0)
    if bicubic:
        near = (1.5 * distances - 2.5) * distances * distances + 1
        far = ((2.5 - 0.5 * distances) * distances - 4) * distances + 2
        values = tl.where(distances < 1, near, tl.where(distances < 2, far, 0.0))
    else:
        values = tl.maximum(1 - distances, 0.0)
    values = tl.where((pixels >= 0) & (pixels < length) & (columns < num_in), values, 0.0)
    values = values / tl.sum(values, axis=0)
    row = out + tl.program_id(0).to(tl.int64) * num_in
    tl.store(row + columns, values.to(out.dtype.element_ty), mask=columns < num_in)
