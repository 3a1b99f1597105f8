"""A data set that lies on a device whole, and batches of it made there: the host says which samples, and no more.

Stands apart from `array_views.py`, which puts it there: what is here knows neither files nor the order of an epoch, and
nothing of it waits for the device or sends it anything, so that a CUDA graph can hold all of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vicreg.config import ViewConfig
from vicreg.data.batches import Batch
from vicreg.views.augment import ColourPlan
from vicreg.views.drawn_in_torch import draw_in_torch
from vicreg.views.resample import Interpolation, crop_resize


@dataclass(frozen=True)
class DeviceImages:
    """RGB images of one size, and how views are made of them."""

    images: Tensor
    """uint8 (N, 3, H, W)."""
    rows: Tensor
    """Which of `images` each sample of the beton is: int64 (samples of the beton,)."""
    labels: Tensor
    """Of each sample of the beton."""
    views: tuple[ViewConfig, ...]
    """One entry for each view of a sample, with its size."""
    seed: int
    interpolation: Interpolation

    def batch(self, samples: Tensor, epoch: Tensor) -> Batch:
        """The batch of these samples (B,) in an epoch (), both int64 on the device: what `Sampling` would draw."""
        images = self.images[self.rows[samples]]
        views, colour = [], []
        for number, view in enumerate(self.views):
            drawn = draw_in_torch(view, self.seed, epoch, samples, number, *images.shape[2:])
            views.append(crop_resize(images, drawn.boxes, drawn.flip, view.image_size, self.interpolation))
            colour.append(ColourPlan.from_settings(drawn.settings, view.blur_sigma_px[1] if view.blur_p else 0.0))
        return Batch(tuple(views), tuple(colour), self.labels[samples], samples)


@dataclass(frozen=True)
class Chosen:
    """A batch that is not made yet."""

    source: DeviceImages
    samples: Tensor
    """int64 (B,): places in the beton, on the host."""
    on_device: Tensor
    """The same beside the images."""
    epoch: int

    def made(self) -> Batch:
        """The batch itself."""
        epoch = torch.full((), self.epoch, dtype=torch.int64, device=self.on_device.device)
        return self.source.batch(self.on_device, epoch)
