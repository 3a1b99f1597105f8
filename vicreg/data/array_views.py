"""The loader for small data sets: decoded once, kept on the device as one array, cut there into views.

Used for data of CIFAR's size, and on GPU machines without FFCV.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any
from weakref import WeakSet

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dataprep.beton.contract import Beton
from vicreg.config import DataConfig
from vicreg.data.batches import (
    Batch,
    Drawn,
    ReadImage,
    Sampling,
    crop_job,
    crop_on_device,
    in_order,
    num_classes,
    split_tasks,
    view_dtype,
    with_others,
)
from vicreg.data.buffers import NUMPY_TYPES, Buffers
from vicreg.data.decode import ImageReader
from vicreg.data.device_images import Chosen, DeviceImages
from vicreg.data.other_views import Task
from vicreg.views.drawn_in_torch import reason_against
from vicreg.views.resample import Interpolation, as_fractions, resize_centre_into

MAX_ARRAY_SHARE = 0.5
"""Share of the device's free memory that a data set may take as an array."""


class ArrayViews:
    """Decodes a small data set once and keeps it on the device: RGB as uint8, other channels as float32 from 0 to 1.

    Images of one size are kept as they are; others are brought to config.eval_resize x config.eval_resize: the shorter
    side is resized to that, then the centre is cut out. ValueError when that takes more than half of the device's free
    memory. On a GPU the crops are matrix products, of parameters that are drawn there where that is possible; on a CPU
    they are made in threads as for `BetonViews`. Locality is of no use here, but an order with it is followed, so that
    both loaders give the same batches.
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
    ) -> None:
        self.num_samples, self.num_batches = len(sampling.samples), sampling.num_batches
        self.num_classes = num_classes(beton)
        self._sampling, self._config, self._labels = sampling, config, beton.labels
        self._device, self._workers, self._interpolation = device, workers, interpolation
        self._held = np.unique(sampling.samples)
        self._reader = ImageReader(beton, config.on_bad)
        images = _load_array(self._reader, self._held, config, device, workers)
        self._pixels = beton.pixels
        self._in_threads = crops_in_threads(device)
        self._images = images if self._in_threads else images.permute(0, 3, 1, 2).contiguous().to(device)
        self._widths = np.full(beton.num_samples, images.shape[2], np.int64)
        self._heights = np.full(beton.num_samples, images.shape[1], np.int64)
        self._buffers = Buffers(pinned=False)
        self._running: WeakSet[Generator[Batch, None, None]] = WeakSet()
        self.reason_for_host = "there is no GPU" if self._in_threads else self._reason_for_host()
        """Why the host draws the views' parameters; empty where the device does."""
        self._source = None if self.reason_for_host else self._device_images()

    def batches(self, epoch: int, first_batch: int = 0) -> Generator[Batch, None, None]:
        """See `ViewLoader`; the batches are on the device."""
        if self._source:
            running = (chosen.made() for chosen in self.chosen(epoch, first_batch))
            self._running.add(running)
            return running
        drawn = self._sampling.draw(epoch, self._sampling.places(epoch, first_batch), self._widths, self._heights)
        if self._in_threads:
            images = self._images.numpy()

            def read(sample: int) -> NDArray[Any]:
                image: NDArray[Any] = images[np.searchsorted(self._held, sample)]
                return image

            jobs = (self._crop_job(read, batch) for batch in drawn)
            running = in_order(jobs, self._workers, self._config.batches_ahead)
        else:
            running = self._cropped_on_device(drawn)
        self._running.add(running)
        return running

    def chosen(self, epoch: int, first_batch: int = 0) -> Generator[Chosen, None, None]:
        """The same batches before they are made, where there is no `reason_for_host`; an epoch is sent at once."""
        assert self._source
        samples = torch.from_numpy(self._sampling.samples[self._sampling.places(epoch, first_batch)])
        pinned = samples.pin_memory() if self._device.type == "cuda" else samples
        for batch, sent in zip(samples, pinned.to(self._device, non_blocking=True), strict=True):
            yield Chosen(self._source, batch, sent, epoch)

    def _crop_job(self, read: ReadImage, drawn: Drawn) -> tuple[Batch, list[Task]]:
        drawn, tasks = with_others(drawn, self._sampling.others)
        batch, cuts = crop_job(read, self._buffers, self._interpolation, drawn, self._labels, self._pixels)
        return batch, cuts + tasks

    def num_stand_ins(self, batch: Batch | Chosen) -> int:
        """See `ViewLoader`."""
        return self._reader.num_stand_ins(batch.samples.tolist()) if self._reader.stand_ins else 0

    def _reason_for_host(self) -> str:
        if not self._pixels.is_rgb:
            return "the images are not RGB"
        if self._sampling.others:
            return "a branch takes other things than images"
        return next(filter(None, map(reason_against, self._sampling.views)), "")

    def _device_images(self) -> DeviceImages:
        places = np.searchsorted(self._held, np.arange(len(self._labels))).clip(max=len(self._held) - 1)
        rows, labels = (torch.from_numpy(values).to(self._device) for values in (places, self._labels))
        return DeviceImages(self._images, rows, labels, self._sampling.views, self._sampling.seed, self._interpolation)

    def _cropped_on_device(self, drawn: Iterator[Drawn]) -> Generator[Batch, None, None]:
        for batch in drawn:
            batch, tasks = with_others(batch, self._sampling.others)
            for task in tasks:
                task()
            rows = torch.from_numpy(np.searchsorted(self._held, batch.samples)).to(self._device, non_blocking=True)
            views = crop_on_device(self._images[rows], batch, self._interpolation)
            yield batch.batch(views, self._labels).to(self._device)

    def close(self) -> None:
        """See `ViewLoader`."""
        for running in list(self._running):
            running.close()
        self._images, self._source = torch.empty(0), None


def crops_in_threads(device: torch.device) -> bool:
    """Whether views are cut out one by one, and not as products over a batch."""
    return device.type == "cpu"


def _load_array(
    reader: ImageReader, samples: NDArray[np.int64], config: DataConfig, device: torch.device, workers: int
) -> Tensor:
    """All images (len(samples), H, W, C) on the CPU; see `ArrayViews` for their size and type."""
    beton = reader.beton
    heights, widths = beton.heights[samples], beton.widths[samples]
    one_size = heights.min() == heights.max() and widths.min() == widths.max()
    shape = (int(heights[0]), int(widths[0])) if one_size else (config.eval_resize, config.eval_resize)
    pixels, dtype = beton.pixels, view_dtype(beton.pixels)
    needed, free = len(samples) * shape[0] * shape[1] * pixels.channels * dtype.itemsize, free_bytes(device)
    if needed > MAX_ARRAY_SHARE * free:
        raise ValueError(
            f"loader is 'array', but {beton.path} takes {needed:,} bytes as {len(samples):,} images of "
            f"{shape[0]} x {shape[1]}, allowed: half of the {free:,} bytes that are free on {device}; "
            "use loader 'beton' or a subset"
        )
    images = torch.from_numpy(np.empty((len(samples), *shape, pixels.channels), NUMPY_TYPES[dtype]))

    def load(number: int) -> None:
        if one_size and pixels.is_rgb:
            reader.read_into(images[number].numpy(), int(samples[number]))
        elif one_size:
            images[number] = as_fractions(reader.read(int(samples[number])))
        else:
            resize_centre_into(images[number], reader.read(int(samples[number])), shape[0], "bicubic")

    for _ in in_order([(None, split_tasks(load, len(samples)))], workers, 0):
        pass
    return images


def free_bytes(device: torch.device) -> int:
    """Of a GPU's memory, or of the machine's, what nobody has taken."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
