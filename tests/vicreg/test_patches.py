"""Patches beside slices of the image."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vicreg.patches import Jigsaw, cell_patches, global_draws, overlapping_patches
from vicreg.ranks import distributed

CPU = torch.device("cpu")


def test_a_patch_lies_in_its_cell_where_the_draws_say() -> None:
    images = torch.arange(2 * 3 * 17 * 17.0).view(2, 3, 17, 17)
    draws = torch.rand(2, 9, 2, generator=torch.Generator().manual_seed(0))
    draws[0, 0], draws[0, 1] = torch.tensor([0.0, 0.999]), torch.tensor([0.999, 0.0])
    patches = cell_patches(images, 3, 4, draws)
    for image in range(2):
        for number in range(9):
            down, right = (int(draw * 2) for draw in draws[image, number].tolist())  # cells of 5 px, patches of 4
            top, left = number // 3 * 5 + down, number % 3 * 5 + right
            assert torch.equal(patches[image, number], images[image, :, top : top + 4, left : left + 4])


def test_overlapping_patches_are_slices() -> None:
    images = torch.arange(2 * 3 * 16 * 16.0).view(2, 3, 16, 16)
    patches = overlapping_patches(images, 4, 2)
    assert patches.shape == (2, 7, 7, 3, 4, 4)
    assert torch.equal(patches[1, 2, 5], images[1, :, 4:8, 10:14])


def test_a_jigsaw_joins_what_is_said_of_its_patches_in_the_order_of_the_draws() -> None:
    images = torch.randn(2, 3, 17, 17, generator=torch.Generator().manual_seed(0))
    draws = torch.rand(2, 9, 3, generator=torch.Generator().manual_seed(1))
    encoder = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten())
    jigsaw = Jigsaw(encoder, nn.Linear(12, 5), nn.Linear(45, 4), cells=3, patch_share=0.8)
    patches = cell_patches(images, 3, 4, draws[..., :2])
    for image in range(2):
        order = sorted(range(9), key=lambda number: float(draws[image, number, 2]))
        said = [jigsaw.patch_head(encoder(patches[image, number][None]))[0] for number in order]
        torch.testing.assert_close(jigsaw(images, draws)[image], jigsaw.joint_head(torch.cat(said)))
    # Without draws they are the middles of their cells, in the order of the grid.
    middle = jigsaw.joint_head(
        torch.cat(
            [
                jigsaw.patch_head(encoder(patch[None]))[0]
                for patch in cell_patches(images, 3, 4, 0 * draws[..., :2] + 0.5)[0]
            ]
        )
    )
    torch.testing.assert_close(jigsaw(images)[0], middle)


def on_rank() -> tuple[float, Tensor]:
    """Draws of a global batch of which this rank has its part."""
    draws = global_draws(4 // distributed.world_size(), (3,), 7, CPU)
    return 0.0, distributed.gather_rows(draws)
