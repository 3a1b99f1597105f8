"""Patches of views: a grid of cells with a patch somewhere in each (jigsaw), or a grid of overlapping patches (CPC)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

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


class Jigsaw(nn.Module):
    """Images (B, 3, S, S) to the embeddings (B, D) of their patches, each through encoder and head, in some order."""

    def __init__(
        self, encoder: nn.Module, patch_head: nn.Module, joint_head: nn.Module, cells: int, patch_share: float
    ) -> None:
        super().__init__()
        self.encoder, self.patch_head, self.joint_head = encoder, patch_head, joint_head
        self.cells, self.patch_share = cells, patch_share

    def forward(self, images: Tensor, draws: Tensor | None = None) -> Tensor:
        """draws: uniform numbers (B, cells^2, 3), two for the place in the cell and one for the order; else centred."""
        number = self.cells**2
        if draws is None:
            draws = images.new_full((len(images), number, 3), 0.5)
        side_px = max(1, round(images.shape[2] // self.cells * self.patch_share))
        patches = cell_patches(images, self.cells, side_px, draws[..., :2])
        embedded = self.patch_head(self.encoder(patches.flatten(0, 1))).view(len(images), number, -1)
        order = draws[..., 2].argsort(dim=1, stable=True)
        shuffled = embedded.gather(1, order[..., None].expand_as(embedded))
        result: Tensor = self.joint_head(shuffled.flatten(1))
        return result
