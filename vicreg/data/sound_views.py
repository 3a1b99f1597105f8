"""The loader for betons of sound: every clip read once for all of its views, each view its own stretch of it.

There is nothing to decode, so the threads only copy samples; loudness, noise, masks and spectrograms are made on the
device (`vicreg/views/sound.py`).
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing
from typing import Any
from weakref import WeakSet

import numpy as np
import torch
from numpy.typing import NDArray

from dataprep.beton.contract import Beton
from vicreg.config import DataConfig
from vicreg.data.batches import Batch, Drawn, Sampling, in_order, num_classes, split_tasks
from vicreg.data.block_reads import read_ahead
from vicreg.data.buffers import Buffers
from vicreg.data.channels import clip_samples
from vicreg.data.decode import ImageReader
from vicreg.data.device_images import Chosen
from vicreg.data.other_views import Task
from vicreg.views.sound import SoundPlan
from vicreg.views.view_parameters import Key


class SoundViews:
    """See `ViewLoader`; views are int16 (B, 1, L) on the CPU. ValueError for clips of several lengths."""

    def __init__(
        self, beton: Beton, sampling: Sampling, config: DataConfig, *, device: torch.device, workers: int
    ) -> None:
        self.num_samples, self.num_batches = len(sampling.samples), sampling.num_batches
        self.num_classes = num_classes(beton)
        self._beton, self._sampling, self._config, self._workers = beton, sampling, config, workers
        self._clip_samples = clip_samples(beton)
        self._reader = ImageReader(beton, config.on_bad)
        self._buffers = Buffers(pinned=device.type == "cuda")
        self._stored = Buffers(pinned=False)
        self._running: WeakSet[Generator[Batch, None, None]] = WeakSet()

    def batches(self, epoch: int, first_batch: int = 0) -> Generator[Batch, None, None]:
        """See `ViewLoader`."""
        running = self._in_threads(epoch, first_batch)
        self._running.add(running)
        return running

    def num_stand_ins(self, batch: Batch | Chosen) -> int:
        """See `ViewLoader`."""
        return self._reader.num_stand_ins(batch.samples.tolist()) if self._reader.stand_ins else 0

    def close(self) -> None:
        """See `ViewLoader`."""
        for running in list(self._running):
            running.close()

    def _in_threads(self, epoch: int, first_batch: int) -> Generator[Batch, None, None]:
        places = self._sampling.places(epoch, first_batch)
        drawn: Generator[Drawn, None, None] = self._draw(epoch, places)
        if self._sampling.block_size:
            drawn = read_ahead(self._beton, drawn, self._sampling, places, self._stored)
        with closing(drawn):
            yield from in_order(self._jobs(drawn), self._workers, self._config.batches_ahead)

    def _draw(self, epoch: int, places: NDArray[np.int64]) -> Generator[Drawn, None, None]:
        sampling, clip = self._sampling, self._clip_samples
        for row in places:
            samples = sampling.samples[row]
            plans, lengths = [], []
            for number, view in enumerate(sampling.views):
                lengths.append(clip - round(clip * view.sound.crop))
                plans.append(SoundPlan.draw(view.sound, Key(sampling.seed, epoch, samples, number), clip, lengths[-1]))
            yield Drawn(samples, tuple(lengths), (), (), epoch, sound=tuple(plans))

    def _jobs(self, drawn: Iterator[Drawn]) -> Iterator[tuple[Batch, list[Task]]]:
        for batch in drawn:
            count = len(batch.samples)
            views = self._buffers.take_all([(count, 1, length) for length in batch.sizes], torch.int16)
            starts = [plan.starts.tolist() for plan in batch.sound]
            arrays: list[NDArray[Any]] = [view.numpy() for view in views]

            def copy(
                number: int,
                batch: Drawn = batch,
                arrays: list[NDArray[Any]] = arrays,
                starts: list[list[int]] = starts,
            ) -> None:
                clip = self._reader.read(int(batch.samples[number]), batch.stored)[0, :, 0]
                for array, begins in zip(arrays, starts, strict=True):
                    begin = begins[number]
                    array[number, 0] = clip[begin : begin + array.shape[2]]

            yield batch.batch(tuple(views), self._beton.labels), split_tasks(copy, count)
