"""The images of a split as an encoder takes them, batch after batch, and how many of them it takes at once.

They are decoded from the beton or, where they are few and asked for again and again, held on the device.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from dataprep.beton.contract import open_beton
from vicreg.config import DataConfig
from vicreg.data.array_views import free_bytes
from vicreg.data.batches import view_dtype
from vicreg.data.loaders import centre_batches
from vicreg.evals.encoding import Encoding
from vicreg.ranks import distributed
from vicreg.view_config import Framing

MAX_HELD_SHARE = 0.25
"""Of the device's free memory, that the images of a split may take."""
MAX_WORKING_SHARE = 0.5
"""Of the GPU's free memory, for the encoder's pass."""
MAX_BATCH = 1024
TRIED_IMAGES = 8


class HeldImages:
    """Images of splits that stay on a device from one measurement to the next, where they fit."""

    def __init__(self) -> None:
        self._held: dict[tuple[Path, range], Tensor] = {}

    def put(self, path: Path, rows: range, images: Tensor) -> None:
        """Images (len(rows), C, S, S), framed already, are those of some rows of a beton."""
        self._held[path, rows] = images

    def take(self, data: DataConfig, path: Path, rows: range, workers: int, device: torch.device) -> Tensor | None:
        """Images (len(rows), C, S, S) on the device, decoded at the first call; None where they do not fit."""
        if (path, rows) not in self._held:
            pixels = open_beton(path).pixels
            shape, dtype = (len(rows), data.image_size, data.image_size, pixels.channels), view_dtype(pixels)
            if torch.Size(shape).numel() * dtype.itemsize > MAX_HELD_SHARE * free_bytes(device):
                return None
            images, done = torch.empty(shape, dtype=dtype, device=device), 0
            for part, *_ in centre_batches(data, path, rows, batch_size=MAX_BATCH, workers=workers, device=device):
                images[done : done + len(part)] = part.permute(0, 2, 3, 1)
                done += len(part)
            self._held[path, rows] = images.permute(0, 3, 1, 2)
        return self._held[path, rows]


def framed_batches(
    data: DataConfig,
    path: Path,
    rows: range,
    *,
    batch_size: int,
    workers: int,
    framing: Framing,
    device: torch.device,
    held: HeldImages | None = None,
) -> Iterator[Tensor]:
    """Images (b, C, S, S) of some rows of a beton, in order; see `centre_batches` for their type and place."""
    images = held.take(data, path, rows, workers, device) if held and framing == "crop" else None
    if images is not None:
        yield from images.split(batch_size)
        return
    batches = centre_batches(data, path, rows, batch_size=batch_size, workers=workers, framing=framing, device=device)
    for part, *_ in batches:
        yield part


def agreed_batch(encoding: Encoding, data: DataConfig, usual: int, device: torch.device) -> int:
    """How many images pass at once, the same on every rank: the usual number, but for half precision on a GPU.

    There it is what a few images take of memory that says how many fit.
    """
    if device.type != "cuda" or not encoding.is_half:
        return usual
    images = torch.zeros((TRIED_IMAGES, len(data.mean), data.image_size, data.image_size), device=device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    encoding(images)
    taken = (torch.cuda.max_memory_allocated(device) - before) / TRIED_IMAGES
    batch = fitting_batch(taken, free_bytes(device), usual)
    return int(distributed.gather_rows(torch.tensor([batch])).min())


def fitting_batch(image_bytes: float, free: int, usual: int) -> int:
    """The usual number of images, doubled as long as they take no more than half of the free memory."""
    batch = usual
    while 2 * batch <= MAX_BATCH and 2 * batch * image_bytes <= MAX_WORKING_SHARE * free:
        batch *= 2
    return batch
