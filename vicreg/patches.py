"""Patches of views: a grid of cells with a patch somewhere in each (jigsaw), or a grid of overlapping patches (CPC)."""

from __future__ import annotations

import torch
from torch import Tensor

from vicreg.ranks import distributed


def global_draws(rows: int, shape: tuple[int, ...], seed: int, device: torch.device) -> Tensor:
    """Uniform numbers (rows, *shape) for own rows: this rank's part of those that a seed gives the global batch."""
    generator = torch.Generator(device).manual_seed(seed)
    total = rows * distributed.world_size()
    drawn = torch.rand(total, *shape, generator=generator, device=device, dtype=torch.float32)
    return drawn[distributed.rank() * rows :][:rows]


def cell_patches(images: Tensor, cells: int, side_px: int, draws: Tensor) -> Tensor:
    """A patch somewhere in each of cells x cells parts of images (B, 3, S, S), row by row: (B, cells^2, 3, p, p).

    draws: uniform numbers (B, cells^2, 2) that say how far down and to the right the patch lies in its cell.
    """
    batch, channels, size, _ = images.shape
    cell = size // cells
    parts = images[:, :, : cells * cell, : cells * cell].reshape(batch, channels, cells, cell, cells, cell)
    parts = parts.permute(0, 2, 4, 3, 5, 1).reshape(batch * cells**2, cell, cell, channels)
    corners = (draws * (cell - side_px + 1)).long().view(-1, 2)
    along = torch.arange(side_px, device=images.device)
    rows, columns = (corners[:, axis, None] + along for axis in range(2))
    each = torch.arange(len(parts), device=images.device)[:, None, None]
    patches = parts[each, rows[:, :, None], columns[:, None, :]]
    return patches.permute(0, 3, 1, 2).reshape(batch, cells**2, channels, side_px, side_px)


def overlapping_patches(images: Tensor, side_px: int, stride_px: int) -> Tensor:
    """All patches of images (B, 3, S, S) at distances of `stride_px`: (B, G, G, 3, p, p), G = (S - p) // stride + 1."""
    patches = images.unfold(2, side_px, stride_px).unfold(3, side_px, stride_px)
    return patches.permute(0, 2, 3, 1, 4, 5)
