"""Loaders behind one interface: views for training from a beton or an array, whole images for evaluations."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dataprep.beton.contract import open_beton
from vicreg.branch_kinds import Kind
from vicreg.config import DataConfig, ViewConfig, each_view, require, require_no_colours
from vicreg.data.array_views import ArrayViews
from vicreg.data.batches import Batch, Sampling, in_order, split_tasks, view_dtype
from vicreg.data.beton_views import BetonViews
from vicreg.data.buffers import Buffers
from vicreg.data.captions import CaptionReader
from vicreg.data.channels import clip_samples, require_channels
from vicreg.data.decode import ImageReader
from vicreg.data.device_centres import centres_on_device
from vicreg.data.device_images import Chosen
from vicreg.data.other_views import Task
from vicreg.data.plane_batches import can_be_shipped
from vicreg.data.sound_views import SoundViews
from vicreg.view_config import Framing
from vicreg.views.resample import Interpolation, resize_centre_into, squash_into

__all__ = [
    "ArrayViews",
    "Batch",
    "BetonViews",
    "Chosen",
    "ViewLoader",
    "centre_batches",
    "default_workers",
    "open_views",
]

CPU = torch.device("cpu")


class ViewLoader(Protocol):
    """What training asks of a loader."""

    @property
    def num_samples(self) -> int:
        """Samples that an epoch draws from; those that do not fill its last batch are left out, others each time."""
        ...

    @property
    def num_classes(self) -> int:
        """Classes of the whole beton; 0 where its labels are no classes."""
        ...

    @property
    def num_batches(self) -> int:
        """Batches per epoch."""
        ...

    def batches(self, epoch: int, first_batch: int = 0) -> Generator[Batch, None, None]:
        """The batches of an epoch in order, from number `first_batch` on; leaving the generator ends its threads.

        DecodeError, naming the sample, when one cannot be decoded, unless such are to be skipped.
        """
        ...

    def num_stand_ins(self, batch: Batch | Chosen) -> int:
        """For how many samples of a batch that was handed out others stand in, because they cannot be decoded."""
        ...

    def close(self) -> None:
        """End every generator of `batches` that is still open, and give the memory back."""
        ...


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
    others: Sequence[Kind] = (),
) -> ViewLoader:
    """The loader that `config.loader` names, over the samples of `subset` (places in the beton) or all.

    workers: decoding threads; 0 takes `default_workers()`. others: kinds of the views that are no images
    (`config.other_kinds`). BetonError when the file is damaged, ValueError when the samples do not fill one global
    batch, the ranks do not divide it, or the beton lacks what a kind of view is made of.
    """
    opened = open_beton(beton)
    require_channels(config, opened)
    samples = np.arange(opened.num_samples) if subset is None else np.asarray(subset, np.int64)
    valid = len(samples) > 0 and samples.min() >= 0 and samples.max() < opened.num_samples
    require(valid, "subset", subset, f"samples of {beton}, 0 to {opened.num_samples - 1}, at least one")
    if config.order == "blocks":
        samples = samples[np.argsort(opened.pointers[samples], kind="stable")]
    block_samples = config.block_samples if config.order == "blocks" else 0
    each = each_view(views, config.image_size)
    pixels = opened.pixels
    channels = 0 if pixels.is_rgb else pixels.channels
    if channels and not pixels.is_sound:
        require_no_colours(each)
    readers = tuple(CaptionReader(opened, seed, len(each) + number) for number, _ in enumerate(others))
    on_cpu = device.type == "cpu"
    sampling = Sampling(samples, each, seed, global_batch, rank, world_size, on_cpu, block_samples, channels, readers)
    workers = workers or default_workers()
    if pixels.is_sound:
        return SoundViews(opened, sampling, config, device=device, workers=workers)
    if config.loader == "array":
        return ArrayViews(opened, sampling, config, device=device, workers=workers, interpolation=interpolation)
    ship = can_be_shipped(opened, samples, sampling.batch_size, device)
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
    device: torch.device = CPU,
) -> Generator[tuple[Tensor, Tensor, Tensor], None, None]:
    """For evaluations: images (b, C, S, S), labels and samples (b, ...), each once, in order.

    RGB is uint8, other channels are float32 from 0 to 1. Sound is whole clips, int16 (b, 1, L). They are on the CPU, or
    on a `device` where that may as well cut the centres out of decoded images; labels and samples are on the CPU.

    torchvision's Resize(config.eval_resize) and then CenterCrop(config.image_size), or Resize to that square without
    keeping proportions (`squash`), bilinear with antialiasing; smaller images are enlarged. The last batch may be
    short. workers: decoding threads; 0 takes `default_workers()`.
    """
    opened = open_beton(beton)
    require_channels(config, opened)
    reader, buffers, size = ImageReader(opened, config.on_bad), Buffers(pinned=False), config.image_size
    workers = workers or default_workers()
    places = np.asarray(samples, np.int64)
    if framing == "crop" and len(places) and can_be_shipped(opened, places, batch_size, device):
        for centres, chosen in centres_on_device(config, reader, samples, device, batch_size, workers):
            yield centres, torch.from_numpy(opened.labels[chosen]), torch.from_numpy(chosen)
        return
    fill = {"crop": resize_centre_into, "squash": squash_into}[framing]
    is_sound = opened.pixels.is_sound
    shape = (1, clip_samples(opened), 1) if is_sound else (size, size, opened.pixels.channels)

    def jobs() -> Iterator[tuple[tuple[Tensor, Tensor, Tensor], list[Task]]]:
        for begin in range(0, len(samples), batch_size):
            part = np.asarray(samples[begin : begin + batch_size], np.int64)
            images = buffers.take((len(part), *shape), view_dtype(opened.pixels))

            def cut(number: int, part: NDArray[np.int64] = part, images: Tensor = images) -> None:
                stored = reader.read(int(part[number]))
                if is_sound:
                    images[number] = torch.from_numpy(stored)
                else:
                    fill(images[number], stored, config.eval_resize)

            result = (
                images[..., 0] if is_sound else images.permute(0, 3, 1, 2),
                torch.from_numpy(opened.labels[part]),
                torch.from_numpy(part),
            )
            yield result, split_tasks(cut, len(part))

    yield from in_order(jobs(), workers, config.batches_ahead)


def default_workers() -> int:
    """Decoding threads where nobody said how many: one for each CPU core that this process may use."""
    return len(os.sched_getaffinity(0))
