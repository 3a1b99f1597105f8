"""Batches of decoded images as planes, filled by threads; what is then done to them is the device's work."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from dataprep.beton.contract import Beton
from vicreg.data.batches import split_tasks
from vicreg.data.buffers import Buffers
from vicreg.data.decode import ImageReader, StoredBytes
from vicreg.data.other_views import Task
from vicreg.data.planes import Planes

MAX_SHIPPED_BYTES = 1 << 30
"""A rank's batch of decoded images above this is cropped before it is sent to a GPU."""


def can_be_shipped(beton: Beton, samples: NDArray[np.int64], batch_size: int, device: torch.device) -> bool:
    """Whether batches of these samples are decoded images for a GPU to crop: RGB, and none is too large for that."""
    if device.type != "cuda" or not beton.pixels.is_rgb:
        return False
    largest = int(beton.heights[samples].max()) * int(beton.widths[samples].max()) * 3 // 2  # see `Planes`
    return batch_size * largest <= MAX_SHIPPED_BYTES


def planes_job(
    reader: ImageReader, buffers: Buffers, samples: NDArray[np.int64], stored: StoredBytes | None = None
) -> tuple[Planes, list[Task]]:
    """A batch, and the tasks that decode the samples into it."""
    beton, count = reader.beton, len(samples)
    rows, columns = (-(-int(sides[samples].max()) // 2) for sides in (beton.heights, beton.widths))
    luma = buffers.take((count, 2 * rows, 2 * columns))
    chroma = buffers.take((count, 2, rows + 1, columns + 1))
    planes = Planes(luma, chroma, {})
    decode: Callable[[int], None] = partial(_decode, reader, planes, samples, stored)
    return planes, split_tasks(decode, count)


def _decode(
    reader: ImageReader, planes: Planes, samples: NDArray[np.int64], stored: StoredBytes | None, number: int
) -> None:
    luma, chroma = planes.luma[number].numpy(), planes.chroma[number].numpy()
    whole = reader.read_planes_into(luma, chroma, int(samples[number]), stored)
    if whole is not None:
        planes.whole[number] = torch.from_numpy(whole)
