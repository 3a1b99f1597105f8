"""Loaders: batches of views from a beton, or from an array that lives on the device, behind one interface.

Threads of this program decode, not FFCV's Loader: that one waits for ever when a sample raises, leaks a thread for
each epoch that is left early, cannot be seeded, and cannot start in the middle of an epoch. Here an exception in a
thread is raised where the batch is asked for, and an epoch that is left takes its threads with it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Protocol
from weakref import WeakSet

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dataprep.beton.contract import Beton, open_beton
from vicreg.config import DataConfig, ViewConfig, require
from vicreg.data.array_views import ArrayViews
from vicreg.data.batches import Batch, Buffers, Drawn, Sampling, T, Task, crop_job, in_order, split_tasks
from vicreg.data.block_reads import read_ahead
from vicreg.data.decode import ImageReader
from vicreg.data.device_views import views_on_device
from vicreg.data.planes import Planes
from vicreg.views.augment import ONE_BY_ONE_MIN_PX
from vicreg.views.resample import Framing, Interpolation, resize_centre_into, squash_into

__all__ = ["ArrayViews", "Batch", "BetonViews", "ViewLoader", "centre_batches", "default_workers", "open_views"]

MAX_SHIPPED_BYTES = 1 << 30
"""A rank's batch of decoded images above this is cropped before it is sent to a GPU."""


class ViewLoader(Protocol):
    """What training asks of a loader."""

    @property
    def num_samples(self) -> int:
        """Samples that an epoch draws from; those that do not fill its last batch are left out, others each time."""
        ...

    @property
    def num_batches(self) -> int:
        """Batches per epoch."""
        ...

    def batches(self, epoch: int, first_batch: int = 0) -> Generator[Batch, None, None]:
        """The batches of an epoch in order, from number `first_batch` on; leaving the generator ends its threads.

        DecodeError, naming the sample, when one cannot be decoded.
        """
        ...

    def close(self) -> None:
        """End every generator of `batches` that is still open, and give the memory back."""
        ...


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
        self.crop_on_device = crop_on_device
        self._beton, self._sampling, self._config = beton, sampling, config
        self._device, self._workers, self._interpolation = device, workers, interpolation
        self._reader = ImageReader(beton)
        self._buffers = Buffers(pinned=device.type == "cuda")
        self._running: WeakSet[Generator[Batch, None, None]] = WeakSet()

    def batches(self, epoch: int, first_batch: int = 0) -> Generator[Batch, None, None]:
        """See `ViewLoader`; with crop_on_device the batches are on the device, else on the CPU."""
        if self.crop_on_device:
            running = self._cropped_on_device(epoch, first_batch)
        else:
            running = self._in_threads(epoch, first_batch, self._crop_job)
        self._running.add(running)
        return running

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
            drawn = read_ahead(beton, drawn, self._sampling.samples[places], places // self._sampling.block_size)
        with closing(drawn):
            yield from in_order((job(batch) for batch in drawn), self._workers, self._config.batches_ahead)

    def _crop_job(self, drawn: Drawn) -> tuple[Batch, list[Task]]:
        read = partial(self._reader.read, stored=drawn.stored)
        size, labels = self._config.image_size, self._beton.labels
        return crop_job(read, self._buffers, size, self._interpolation, drawn, labels)

    def _decode_job(self, drawn: Drawn) -> tuple[tuple[Drawn, Planes], list[Task]]:
        beton, count = self._beton, len(drawn.samples)
        rows, columns = (-(-int(sides[drawn.samples].max()) // 2) for sides in (beton.heights, beton.widths))
        luma = self._buffers.take((count, 2 * rows, 2 * columns))
        chroma = self._buffers.take((count, 2, rows + 1, columns + 1))
        planes = Planes(luma, chroma, {})
        return (drawn, planes), split_tasks(partial(self._decode, drawn, planes), count)

    def _decode(self, drawn: Drawn, planes: Planes, number: int) -> None:
        luma, chroma = planes.luma[number].numpy(), planes.chroma[number].numpy()
        whole = self._reader.read_planes_into(luma, chroma, int(drawn.samples[number]), drawn.stored)
        if whole is not None:
            planes.whole[number] = torch.from_numpy(whole)

    def _cropped_on_device(self, epoch: int, first_batch: int) -> Generator[Batch, None, None]:
        with closing(self.decoded(epoch, first_batch)) as decoded:
            size, labels = self._config.image_size, self._beton.labels
            yield from views_on_device(decoded, self._device, size, self._interpolation, labels)

    def close(self) -> None:
        """See `ViewLoader`."""
        for running in list(self._running):
            running.close()


def open_views(
    config: DataConfig,
    beton: Path,
    views: tuple[ViewConfig, ...],
    *,
    seed: int,
    global_batch: int,
    rank: int,
    world_size: int,
    device: torch.device,
    workers: int,
    interpolation: Interpolation = "bicubic",
    subset: NDArray[np.int64] | None = None,
) -> ViewLoader:
    """The loader that `config.loader` names, over the samples of `subset` (places in the beton) or all.

    workers: decoding threads; 0 takes `default_workers()`. BetonError when the file is damaged, ValueError when the
    samples do not fill one global batch, or the ranks do not divide it.
    """
    opened = open_beton(beton)
    samples = np.arange(opened.num_samples) if subset is None else np.asarray(subset, np.int64)
    valid = len(samples) > 0 and samples.min() >= 0 and samples.max() < opened.num_samples
    require(valid, "subset", subset, f"samples of {beton}, 0 to {opened.num_samples - 1}, at least one")
    one_by_one = device.type == "cpu" and config.image_size >= ONE_BY_ONE_MIN_PX
    if config.order == "blocks":
        samples = samples[np.argsort(opened.pointers[samples], kind="stable")]
    block_samples = config.block_samples if config.order == "blocks" else 0
    sampling = Sampling(samples, views, seed, global_batch, rank, world_size, one_by_one, block_samples)
    workers = workers or default_workers()
    if config.loader == "array":
        return ArrayViews(opened, sampling, config, device=device, workers=workers, interpolation=interpolation)
    largest = int(opened.heights[samples].max()) * int(opened.widths[samples].max()) * 3 // 2  # see `Planes`
    ship = device.type == "cuda" and sampling.batch_size * largest <= MAX_SHIPPED_BYTES
    return BetonViews(
        opened, sampling, config, device=device, workers=workers, interpolation=interpolation, crop_on_device=ship
    )


def centre_batches(
    config: DataConfig,
    beton: Path,
    samples: Sequence[int],
    *,
    batch_size: int,
    workers: int,
    framing: Framing = "crop",
) -> Generator[tuple[Tensor, Tensor, Tensor], None, None]:
    """For evaluations: images uint8 (b, 3, S, S), labels and samples (b, ...), each once, in order, on the CPU.

    torchvision's Resize(config.eval_resize) and then CenterCrop(config.image_size), or Resize to that square without
    keeping proportions (`squash`), bilinear with antialiasing; smaller images are enlarged. The last batch may be
    short. workers: decoding threads; 0 takes `default_workers()`.
    """
    opened = open_beton(beton)
    reader, buffers, size = ImageReader(opened), Buffers(pinned=False), config.image_size
    fill = {"crop": resize_centre_into, "squash": squash_into}[framing]

    def jobs() -> Iterator[tuple[tuple[Tensor, Tensor, Tensor], list[Task]]]:
        for begin in range(0, len(samples), batch_size):
            part = np.asarray(samples[begin : begin + batch_size], np.int64)
            images = buffers.take((len(part), size, size, 3))

            def cut(number: int, part: NDArray[np.int64] = part, images: Tensor = images) -> None:
                fill(images[number], reader.read(int(part[number])), config.eval_resize)

            result = (images.permute(0, 3, 1, 2), torch.from_numpy(opened.labels[part]), torch.from_numpy(part))
            yield result, split_tasks(cut, len(part))

    return in_order(jobs(), workers or default_workers(), config.batches_ahead)


def default_workers() -> int:
    """Decoding threads where nobody said how many: one for each CPU core that this process may use."""
    return len(os.sched_getaffinity(0))
