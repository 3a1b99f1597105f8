"""The loader for betons of any size: every epoch decoded anew, each image once for all of its views.

Threads of this program decode, not FFCV's Loader: that one waits for ever when a sample raises, leaks a thread for
each epoch that is left early, cannot be seeded, and cannot start in the middle of an epoch. Here an exception in a
thread is raised where the batch is asked for, and an epoch that is left takes its threads with it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import closing
from functools import partial
from weakref import WeakSet

import torch

from dataprep.beton.contract import Beton
from vicreg.config import DataConfig
from vicreg.data.batches import Batch, Drawn, Sampling, T, crop_job, in_order, num_classes, with_others
from vicreg.data.block_reads import read_ahead
from vicreg.data.buffers import Buffers
from vicreg.data.decode import ImageReader
from vicreg.data.device_images import Chosen
from vicreg.data.device_views import views_on_device
from vicreg.data.other_views import Task
from vicreg.data.plane_batches import planes_job
from vicreg.data.planes import Planes
from vicreg.views.resample import Interpolation


class BetonViews:
    """Decodes every epoch anew, each image once for all of its views.

    crop_on_device: ship decoded images and crop them on the device; else crop in the decoding threads.
    """

    def __init__(
        self,
        beton: Beton,
        sampling: Sampling,
        config: DataConfig,
        *,
        device: torch.device,
        workers: int,
        interpolation: Interpolation = "bicubic",
        crop_on_device: bool = False,
    ) -> None:
        self.num_samples, self.num_batches = len(sampling.samples), sampling.num_batches
        self.num_classes = num_classes(beton)
        self.crop_on_device = crop_on_device
        self._beton, self._sampling, self._config = beton, sampling, config
        self._device, self._workers, self._interpolation = device, workers, interpolation
        self._reader = ImageReader(beton, config.on_bad)
        self._buffers = Buffers(pinned=device.type == "cuda")
        self._stored = Buffers(pinned=False)
        self._running: WeakSet[Generator[Batch, None, None]] = WeakSet()

    def batches(self, epoch: int, first_batch: int = 0) -> Generator[Batch, None, None]:
        """See `ViewLoader`; with crop_on_device the batches are on the device, else on the CPU."""
        if self.crop_on_device:
            running = self._cropped_on_device(epoch, first_batch)
        else:
            running = self._in_threads(epoch, first_batch, self._crop_job)
        self._running.add(running)
        return running

    def num_stand_ins(self, batch: Batch | Chosen) -> int:
        """See `ViewLoader`."""
        return self._reader.num_stand_ins(batch.samples.tolist()) if self._reader.stand_ins else 0

    def decoded(self, epoch: int, first_batch: int = 0) -> Generator[tuple[Drawn, Planes], None, None]:
        """The batches of an epoch as whole images, which the device makes RGB of."""
        return self._in_threads(epoch, first_batch, self._decode_job)

    def _in_threads(
        self, epoch: int, first_batch: int, job: Callable[[Drawn], tuple[T, list[Task]]]
    ) -> Generator[T, None, None]:
        """What the jobs of the batches of an epoch make; leaving this ends all of its threads."""
        beton, places = self._beton, self._sampling.places(epoch, first_batch)
        drawn = self._sampling.draw(epoch, places, beton.widths, beton.heights)
        if self._sampling.block_size:
            drawn = read_ahead(beton, drawn, self._sampling, places, self._stored)
        with closing(drawn):
            yield from in_order((job(batch) for batch in drawn), self._workers, self._config.batches_ahead)

    def _crop_job(self, drawn: Drawn) -> tuple[Batch, list[Task]]:
        read = partial(self._reader.read, stored=drawn.stored)
        drawn, tasks = with_others(drawn, self._sampling.others)
        batch, cuts = crop_job(read, self._buffers, self._interpolation, drawn, self._beton.labels, self._beton.pixels)
        return batch, cuts + tasks

    def _decode_job(self, drawn: Drawn) -> tuple[tuple[Drawn, Planes], list[Task]]:
        drawn, tasks = with_others(drawn, self._sampling.others)
        planes, decodes = planes_job(self._reader, self._buffers, drawn.samples, drawn.stored)
        return (drawn, planes), decodes + tasks

    def _cropped_on_device(self, epoch: int, first_batch: int) -> Generator[Batch, None, None]:
        with closing(self.decoded(epoch, first_batch)) as decoded:
            yield from views_on_device(decoded, self._device, self._interpolation, self._beton.labels)

    def close(self) -> None:
        """See `ViewLoader`."""
        for running in list(self._running):
            running.close()
