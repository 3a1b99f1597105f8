"""What a batch is, which batches an epoch has, and how threads make them: in order, a few ahead.

Stands apart from `data.py`, which says where the pixels come from. What a batch holds is a function of
(seed, epoch, batch) alone; ranks, threads and the starting point have no part in it.
"""

from __future__ import annotations

import functools
import sys
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController
from torch import Tensor

from dataprep.beton.contract import Beton
from dataprep.beton.manifest import has_labels
from dataprep.beton.pixel_format import PixelFormat
from vicreg.config import ViewConfig, require
from vicreg.data.buffers import Buffers
from vicreg.data.decode import StoredBytes
from vicreg.data.other_views import OtherReader, OtherView, Task
from vicreg.views.augment import ONE_BY_ONE_MIN_PX, ColourPlan
from vicreg.views.order import batches_per_epoch, block_size, blocks_order, epoch_order, rank_batch
from vicreg.views.resample import Interpolation, crop_resize, crop_resize_into
from vicreg.views.sound import SoundPlan
from vicreg.views.view_parameters import Geometry, draw_colour, draw_geometry, part

TASK_SAMPLES = 16
"""Samples that a thread takes at a time."""
DRAWN_SAMPLES = 1024
"""Samples whose views are drawn in one go: one by one batches of 64 would cost ten times as much for each sample, and
the threads that decode wait meanwhile for the interpreter."""
HAND_OVER_S = 2e-4
"""How long a thread waits for the interpreter before it asks for it, while threads decode. By Python's own 5 ms each of
them stood still for a fifth of its time, whenever the program drew the next batch or was busy with a step."""

T = TypeVar("T")
ReadImage = Callable[[int], NDArray[Any]]
"""A sample's image (H, W, C), good until the same thread reads the next."""


@dataclass(frozen=True)
class Batch:
    """A rank's part of a global batch: views of its samples, and what is still to be done to their colours."""

    views: tuple[Tensor, ...]
    """Each (B, C, S, S) in any memory layout, of a size S of its own: cropped, resized, mirrored. RGB is uint8, other
    channels are float32 from 0 to 1. Of sound int16 (B, 1, L)."""
    colour: tuple[ColourPlan, ...]
    """For each view the plan that `augment` carries out."""
    labels: Tensor
    """int64 (B,)."""
    samples: Tensor
    """int64 (B,): places in the beton."""
    others: tuple[OtherView, ...] = ()
    """The views that are no images, in the order of their numbers."""
    sound: tuple[SoundPlan, ...] = ()
    """Of sound instead of `colour`: for each view the plan that `prepare_sound` carries out."""

    def to(self, device: torch.device, non_blocking: bool = True) -> Batch:
        """The same batch on `device`."""
        return Batch(
            views=tuple(view.to(device, non_blocking=non_blocking) for view in self.views),
            colour=tuple(plan.to(device, non_blocking) for plan in self.colour),
            labels=self.labels.to(device, non_blocking=non_blocking),
            samples=self.samples.to(device, non_blocking=non_blocking),
            others=tuple(view.to(device, non_blocking) for view in self.others),
            sound=tuple(plan.to(device, non_blocking) for plan in self.sound),
        )


@dataclass(frozen=True)
class Drawn:
    """A batch before it has pixels: which samples, cut out where, changed how."""

    samples: NDArray[np.int64]
    sizes: tuple[int, ...]
    """Side of each view in pixels; of sound its length."""
    geometry: tuple[Geometry, ...]
    colour: tuple[ColourPlan, ...]
    epoch: int
    stored: StoredBytes | None = None
    """Where its samples are read ahead of decoding: what has been read of each."""
    others: tuple[OtherView, ...] = ()
    sound: tuple[SoundPlan, ...] = ()
    """What sound has instead of geometry and colour."""

    def batch(self, views: tuple[Tensor, ...], labels: NDArray[np.int64]) -> Batch:
        """The batch with these views; `labels` are those of the whole beton."""
        of_samples, samples = torch.from_numpy(labels[self.samples]), torch.from_numpy(self.samples)
        return Batch(views, self.colour, of_samples, samples, self.others, self.sound)


def with_others(drawn: Drawn, readers: Sequence[OtherReader]) -> tuple[Drawn, list[Task]]:
    """The batch with its views that are no images, and the tasks that fill them."""
    made = [reader.view(drawn.epoch, drawn.samples) for reader in readers]
    return replace(drawn, others=tuple(view for view, _ in made)), [task for _, some in made for task in some]


@dataclass(frozen=True)
class Sampling:
    """Which samples make up a rank's batches, and how their views are drawn.

    ValueError: no samples, or the ranks do not divide the global batch, or the samples do not fill it.
    """

    samples: NDArray[np.int64]
    """The samples to train on, as places in the beton."""
    views: tuple[ViewConfig, ...]
    """As `config.each_view` lists them: one entry for each view of a sample, with its size."""
    seed: int
    global_batch: int
    rank: int = 0
    world_size: int = 1
    on_cpu: bool = False
    """Whether views are coloured on a CPU: then those of large images are planned one by one (`ColourPlan.build`)."""
    block_samples: int = 0
    """Samples of a block in the order with locality (`views/order.py`), for which `samples` should be in the order of
    the file; 0 for the full shuffle."""
    channels: int = 0
    """Channels of images that are not RGB, each with a brightness and contrast of its own; 0 for RGB."""
    others: tuple[OtherReader, ...] = ()
    """What makes the views that are no images."""

    def __post_init__(self) -> None:
        each = bool(self.views) and all(view.image_size and view.count == 1 for view in self.views)
        require(each, "views", self.views, "one entry for each view, with its size (config.each_view)")
        rank_batch(self.samples, 0, self.global_batch, self.rank, self.world_size)  # raises what it objects to

    @property
    def num_batches(self) -> int:
        """Batches per epoch, all of them full."""
        return batches_per_epoch(len(self.samples), self.global_batch)

    @property
    def batch_size(self) -> int:
        """Samples of a batch on one rank."""
        return self.global_batch // self.world_size

    @property
    def block_size(self) -> int:
        """Samples of a block as they are dealt; 0 where the order has no blocks."""
        return self.block_samples and block_size(len(self.samples), self.global_batch, self.block_samples)

    def places(self, epoch: int, first_batch: int = 0) -> NDArray[np.int64]:
        """This rank's batches (num, batch_size) of an epoch from number `first_batch` on, as places in `samples`."""
        require(0 <= first_batch <= self.num_batches, "first_batch", first_batch, f"0 to {self.num_batches}")
        if self.block_samples:
            order = blocks_order(len(self.samples), self.seed, epoch, self.global_batch, self.block_size)
        else:
            order = epoch_order(len(self.samples), self.seed, epoch)
        whole = order[: self.num_batches * self.global_batch].reshape(self.num_batches, self.world_size, -1)
        return whole[first_batch:, self.rank].copy()  # not a view: the other ranks' parts are let go

    def draw(
        self, epoch: int, places: NDArray[np.int64], widths: NDArray[np.integer], heights: NDArray[np.integer]
    ) -> Generator[Drawn, None, None]:
        """The batches of an epoch at these `places` (num, batch_size); widths and heights are of the whole beton."""
        size = places.shape[1]
        rows = max(1, DRAWN_SAMPLES // size)
        for begin in range(0, len(places), rows):
            together = self.samples[places[begin : begin + rows].ravel()]
            sizes_px = widths[together], heights[together]
            drawn = [
                (
                    draw_geometry(view, self.seed, epoch, together, number, *sizes_px),
                    draw_colour(view, self.seed, epoch, together, number, self.channels),
                )
                for number, view in enumerate(self.views)
            ]
            for first in range(0, len(together), size):
                batch = slice(first, first + size)
                geometry, colour = [], []
                for view, (whole, colours) in zip(self.views, drawn, strict=True):
                    geometry.append(part(whole, batch))
                    one_by_one = self.on_cpu and view.image_size >= ONE_BY_ONE_MIN_PX
                    colour.append(ColourPlan.build(part(colours, batch), geometry[-1].angle_rad, one_by_one))
                sides_px = tuple(view.image_size for view in self.views)
                yield Drawn(together[batch], sides_px, tuple(geometry), tuple(colour), epoch)


def crop_job(
    read: ReadImage,
    buffers: Buffers,
    interpolation: Interpolation,
    drawn: Drawn,
    labels: NDArray[np.int64],
    pixels: PixelFormat,
) -> tuple[Batch, list[Task]]:
    """A batch, and the tasks that fill its views on the CPU."""
    shapes = [(len(drawn.samples), size, size, pixels.channels) for size in drawn.sizes]
    views = buffers.take_all(shapes, view_dtype(pixels))
    boxes = [geometry.boxes.tolist() for geometry in drawn.geometry]
    flips = [geometry.flip.tolist() for geometry in drawn.geometry]

    def cut(number: int) -> None:
        image = read(int(drawn.samples[number]))
        for view in range(len(boxes)):
            crop_resize_into(views[view][number], image, boxes[view][number], flips[view][number], interpolation)

    return drawn.batch(tuple(view.permute(0, 3, 1, 2) for view in views), labels), split_tasks(cut, len(drawn.samples))


def view_dtype(pixels: PixelFormat) -> torch.dtype:
    """Type of the values of a view, as `Batch` has them."""
    if pixels.is_sound:
        return torch.int16
    return torch.uint8 if pixels.is_rgb else torch.float32


def crop_on_device(images: Tensor, drawn: Drawn, interpolation: Interpolation) -> tuple[Tensor, ...]:
    """All views, each (B, C, S, S), of images (B, C, H, W) on their device, of the images' type."""
    views = []
    for geometry, size in zip(drawn.geometry, drawn.sizes, strict=True):
        boxes = torch.from_numpy(geometry.boxes).to(images.device, non_blocking=True)
        flip = torch.from_numpy(geometry.flip).to(images.device, non_blocking=True)
        views.append(crop_resize(images, boxes, flip, size, interpolation))
    return tuple(views)


def num_classes(beton: Beton) -> int:
    """Classes that the labels of a beton tell apart; 0 where they are no classes, or none are there."""
    labels = beton.labels
    if not has_labels(beton.path):
        return 0
    return int(labels.max()) + 1 if labels.ndim == 1 and len(labels) and labels.min() >= 0 else 0


def split_tasks(work: Callable[[int], None], num: int) -> list[Task]:
    """The calls work(0) .. work(num - 1) as tasks of `TASK_SAMPLES` calls each."""

    def task(begin: int) -> Task:
        def run() -> None:
            for number in range(begin, min(begin + TASK_SAMPLES, num)):
                work(number)

        return run

    return [task(begin) for begin in range(0, num, TASK_SAMPLES)]


def in_order(jobs: Iterable[tuple[T, list[Task]]], workers: int, ahead: int) -> Generator[T, None, None]:
    """The results of jobs in their order, each once its tasks are done; `ahead` more are in work meanwhile.

    Tasks run in `workers` threads that live as long as this generator and have no threads of their own. An exception
    in a task is raised here. Leaving the generator drops what has not begun, waits for what has, and ends the threads.
    """
    sys.setswitchinterval(min(HAND_OVER_S, sys.getswitchinterval()))
    executor = ThreadPoolExecutor(workers, thread_name_prefix="vicreg-decode", initializer=_alone)
    waiting: deque[tuple[T, list[Future[None]]]] = deque()
    try:
        for result, tasks in jobs:
            waiting.append((result, [executor.submit(task) for task in tasks]))
            del result  # a batch that was handed out is the consumer's alone
            if len(waiting) > ahead:
                yield _finished(waiting)
        while waiting:
            yield _finished(waiting)
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def _alone() -> None:
    """Without torch's threads in this thread: there are as many decoding threads as cores."""
    torch.get_num_threads()  # which sets up what the next line changes
    _thread_pools().limit(limits=1, user_api="openmp")


@functools.cache
def _thread_pools() -> ThreadpoolController:
    return ThreadpoolController()


def _finished(waiting: deque[tuple[T, list[Future[None]]]]) -> T:
    result, futures = waiting.popleft()
    for future in futures:
        future.result()
    return result
