"""Crops of scaled images with the class of every pixel: functions of (seed, step) alone, as all scenes are."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dataprep.beton.contract import Beton
from dataprep.beton.segments import SEGMENTS, VOID, decode_segments
from vicreg.config import DataConfig
from vicreg.data.batches import in_order, split_tasks
from vicreg.data.buffers import Buffers
from vicreg.data.decode import ImageReader
from vicreg.data.other_views import Task
from vicreg.detection.scenes import Scenes, padded
from vicreg.views.keyed_random import uniform
from vicreg.views.order import batches_per_epoch, epoch_order, rank_batch
from vicreg.views.resample import crop_resize_into

SCALE, TOP, LEFT, FLIP = range(4)  # draws


@dataclass(frozen=True)
class CropSettings:
    """How crops are drawn."""

    batch: int
    """Images per step over all ranks."""
    crop: int
    """Side in pixels."""
    scales: tuple[float, float]
    """By which images, their shorter side brought to `crop`, are scaled first."""
    hflip_p: float
    seed: int


class CropLoader:
    """Batches of a beton that has the classes of pixels; ValueError where the images or ranks do not fit the batch."""

    def __init__(
        self, data: DataConfig, beton: Beton, settings: CropSettings, rank: int, world_size: int, pinned: bool
    ) -> None:
        self._beton, self._settings, self._ahead = beton, settings, data.batches_ahead
        self._rank, self._world_size = rank, world_size
        self._reader, self._buffers = ImageReader(beton, data.on_bad), Buffers(pinned)
        rank_batch(np.arange(beton.num_samples), 0, settings.batch, rank, world_size)  # raises what it objects to

    def batches(self, first_step: int, num_steps: int, workers: int) -> Generator[tuple[Scenes, Tensor], None, None]:
        """This rank's part of each step's batch, and the classes uint8 (B, H, W) of its pixels, VOID beyond images."""
        return in_order(self._jobs(first_step, num_steps), workers, self._ahead)

    def _jobs(self, first_step: int, num_steps: int) -> Iterator[tuple[tuple[Scenes, Tensor], list[Task]]]:
        settings, num = self._settings, self._beton.num_samples
        per_epoch, per_rank = batches_per_epoch(num, settings.batch), settings.batch // self._world_size
        order, known = np.empty(0, np.int64), -1
        for step in range(first_step, num_steps):
            epoch, number = divmod(step, per_epoch)
            if epoch != known:
                order, known = epoch_order(num, settings.seed, epoch), epoch
            first = number * settings.batch + self._rank * per_rank
            yield self._job(epoch, order[first : first + per_rank])

    def _job(self, epoch: int, samples: NDArray[np.int64]) -> tuple[tuple[Scenes, Tensor], list[Task]]:
        """A batch, and the tasks that fill it."""
        settings, beton = self._settings, self._beton
        images = self._buffers.take((len(samples), *padded([(settings.crop, settings.crop)]), 3))
        classes = torch.full(images.shape[:3], VOID, dtype=torch.uint8)
        draws = [uniform(settings.seed, epoch, samples, 0, draw).tolist() for draw in (SCALE, TOP, LEFT, FLIP)]
        boxes: list[tuple[int, ...]] = []
        sizes: list[tuple[int, int]] = []
        flips: list[bool] = []
        for sample, scale, top, left, flip in zip(samples.tolist(), *draws, strict=True):
            stored = int(beton.heights[sample]), int(beton.widths[sample])
            low, high = settings.scales
            ratio = (low + (high - low) * scale) * settings.crop / min(stored)
            tall, wide = (min(side, max(1, round(settings.crop / ratio))) for side in stored)
            boxes.append((int(top * (stored[0] - tall + 1)), int(left * (stored[1] - wide + 1)), tall, wide))
            sizes.append((_scaled(tall, ratio, settings.crop), _scaled(wide, ratio, settings.crop)))
            flips.append(flip < settings.hflip_p)

        def fill(number: int) -> None:
            sample, (height, width) = int(samples[number]), sizes[number]
            image = self._reader.read(sample)
            crop_resize_into(images[number, :height, :width], image, boxes[number], flips[number], "bilinear")
            whole = decode_segments(beton.field_bytes(SEGMENTS, sample), *image.shape[:2])
            top, left, tall, wide = boxes[number]
            rows, columns = top + _nearest(height, tall), left + _nearest(width, wide)
            cut = whole[rows[:, None], columns[::-1] if flips[number] else columns]
            classes[number, :height, :width] = torch.from_numpy(cut)

        return (Scenes(images.permute(0, 3, 1, 2), sizes, samples), classes), split_tasks(fill, len(samples))


def _scaled(side: int, ratio: float, most: int) -> int:
    return min(most, max(1, round(side * ratio)))


def _nearest(num_out: int, num_in: int) -> NDArray[np.int64]:
    """Of each of the pixels of a resized side, the pixel that its centre is in.

    >>> _nearest(4, 2), _nearest(2, 6)
    (array([0, 0, 1, 1]), array([1, 4]))
    """
    return (np.arange(num_out) * 2 + 1) * num_in // (2 * num_out)
