"""Images with their objects for training and measuring: decoded once, in threads, with keyed augmentation.

What a batch holds is a function of (seed, step) alone: order, size and flip are drawn by keys, so ranks and the step at
which a run goes on have no part in it. All images of a global batch are padded to the same size, whatever the rank.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dataprep.beton.contract import Beton, open_beton
from dataprep.beton.objects import CROWD, MASKS, OBJECTS, decode_mask, decode_masks, decode_objects
from vicreg.config import DataConfig
from vicreg.data.batches import in_order, split_tasks
from vicreg.data.buffers import Buffers
from vicreg.data.decode import ImageReader
from vicreg.data.other_views import Task
from vicreg.detection.settings import Settings
from vicreg.views.keyed_random import bits, uniform
from vicreg.views.order import batches_per_epoch, epoch_order, rank_batch
from vicreg.views.resample import crop_resize_into

MULTIPLE = 32
"""Sides of batches are multiples of this many pixels, so that every map's stride divides them."""
_SIZE_DRAW, _FLIP_DRAW = 0, 1
_SMALLEST_PX = 1e-5  # narrower boxes teach nothing (detectron2)


@dataclass
class Scenes:
    """Some images of one padded size, each with its objects."""

    images: Tensor
    """uint8 (B, 3, H, W); what is beyond an image's own size is undefined."""
    sizes: list[tuple[int, int]]
    """Height and width of each image in the batch."""
    samples: NDArray[np.int64]
    """Places in the beton."""
    targets: list[dict[str, Tensor]] = field(default_factory=list)
    """Of each image: boxes (N, 4) in its pixels here; labels (N,) from 1; where masks are learned, masks (N, h, w) in
    the image's stored size, flipped as it is, and mask_scale (4,) by which boxes come to that size."""

    def to(self, device: torch.device) -> Scenes:
        """The same on `device`."""
        targets = [{key: value.to(device, non_blocking=True) for key, value in one.items()} for one in self.targets]
        return Scenes(self.images.to(device, non_blocking=True), self.sizes, self.samples, targets)


class SceneLoader:
    """Batches of training scenes of a beton that has objects; ValueError where it has none, or too few images."""

    def __init__(
        self,
        data: DataConfig,
        beton: Path,
        settings: Settings,
        *,
        rank: int,
        world_size: int,
        workers: int,
        pinned: bool,
    ) -> None:
        self._beton, self._settings = open_with_objects(beton, settings.masks), settings
        self._rank, self._world_size, self._workers = rank, world_size, workers
        self._ahead = data.batches_ahead
        self._reader, self._buffers = ImageReader(self._beton, data.on_bad), Buffers(pinned)
        self.samples = np.flatnonzero((self._beton.labels >= 0).any(axis=1))
        """Images from which something can be learned: crowds alone are nothing."""
        rank_batch(self.samples, 0, settings.batch, rank, world_size)  # raises what it objects to
        self.per_epoch = batches_per_epoch(len(self.samples), settings.batch)

    def batches(self, first_step: int, num_steps: int) -> Generator[Scenes, None, None]:
        """This rank's part of the batch of every step from `first_step` on; leaving this ends its threads."""
        return in_order(self._jobs(first_step, num_steps), self._workers, self._ahead)

    def _jobs(self, first_step: int, num_steps: int) -> Iterator[tuple[Scenes, list[Task]]]:
        settings, order, known = self._settings, np.empty(0, np.int64), -1
        for step in range(first_step, num_steps):
            epoch, number = divmod(step, self.per_epoch)
            if epoch != known:
                order, known = epoch_order(len(self.samples), settings.seed, epoch), epoch
            places = order[number * settings.batch : (number + 1) * settings.batch]
            yield self._job(epoch, self.samples[places])

    def _job(self, epoch: int, samples: NDArray[np.int64]) -> tuple[Scenes, list[Task]]:
        """A rank's part of a global batch, and the tasks that fill it."""
        settings, beton = self._settings, self._beton
        sides = np.arange(settings.short_sides[0], settings.short_sides[1] + 1, settings.short_sides[2])
        drawn = bits(settings.seed, epoch, samples, 0, _SIZE_DRAW) % np.uint64(len(sides))
        flips = uniform(settings.seed, epoch, samples, 0, _FLIP_DRAW) < settings.hflip_p
        sizes = [
            scene_size(int(beton.heights[sample]), int(beton.widths[sample]), int(side), settings.longest_side)
            for sample, side in zip(samples, sides[drawn.astype(np.int64)], strict=True)
        ]
        per_rank = len(samples) // self._world_size
        own = slice(self._rank * per_rank, (self._rank + 1) * per_rank)
        images = self._buffers.take((per_rank, *padded(sizes), 3))
        scenes = Scenes(images.permute(0, 3, 1, 2), sizes[own], samples[own], [{}] * per_rank)
        flip = flips[own]

        def fill(number: int) -> None:
            sample, (height, width) = int(scenes.samples[number]), scenes.sizes[number]
            image = self._reader.read(sample)
            whole = (0, 0, *image.shape[:2])
            crop_resize_into(images[number, :height, :width], image, whole, bool(flip[number]), "bilinear")
            scenes.targets[number] = training_target(beton, sample, (height, width), bool(flip[number]), settings.masks)

        return scenes, split_tasks(fill, per_rank)


def open_with_objects(path: Path, with_masks: bool) -> Beton:
    """A beton that has objects, and masks if these are wanted; ValueError where it has not."""
    beton = open_beton(path)
    require_rgb(beton)
    needed = (OBJECTS, MASKS) if with_masks else (OBJECTS,)
    missing = [name for name in needed if name not in beton.more]
    if missing or beton.labels.ndim != 2:
        cure = "write it with dataprep/write_ffcv.py coco-detection" + ("" if with_masks else " or voc-detection")
        raise ValueError(
            f"{path} has no field {' or '.join(missing) or 'of label vectors'}, needed for detection; {cure}"
        )
    return beton


def require_rgb(beton: Beton) -> None:
    """ValueError for images of other channels than RGB of 8 bits, of which scenes are made."""
    if not beton.pixels.is_rgb:
        raise ValueError(f"{beton.path} has images of {beton.pixels}, allowed here: RGB of 8 bits; write it so")


def scene_size(height: int, width: int, short_side: int, longest_side: int) -> tuple[int, int]:
    """Height and width of an image brought to a short side, or to the longest side if it would become longer.

    >>> scene_size(480, 640, 600, 1333), scene_size(100, 400, 600, 1333)
    ((600, 800), (333, 1333))
    """
    scale = short_side / min(height, width)
    scale = min(scale, longest_side / max(height, width))
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def padded(sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """Height and width of a batch that holds images of these sizes."""
    height, width = (-(-max(side) // MULTIPLE) * MULTIPLE for side in zip(*sizes, strict=True))
    return height, width


def training_target(
    beton: Beton, sample: int, size: tuple[int, int], flip: bool, with_masks: bool
) -> dict[str, Tensor]:
    """The objects of an image that was brought to `size`: see `Scenes.targets`. Crowds are left out (detectron2).

    Boxes are cut off at the image's border; difficult objects are learned like others.
    """
    stored = int(beton.heights[sample]), int(beton.widths[sample])
    objects = decode_objects(beton.field_bytes(OBJECTS, sample))
    scale = np.array([size[1] / stored[1], size[0] / stored[0]] * 2)
    boxes = np.clip(objects["box"] * scale, 0, np.array([size[1], size[0]] * 2))
    kept = (objects["flags"] & CROWD) == 0
    kept &= ((boxes[:, 2:] - boxes[:, :2]) > _SMALLEST_PX).all(axis=1)
    if flip:
        boxes = np.stack([size[1] - boxes[:, 2], boxes[:, 1], size[1] - boxes[:, 0], boxes[:, 3]], axis=1)
    target = {
        "boxes": torch.from_numpy(boxes[kept].astype(np.float32)),
        "labels": torch.from_numpy(objects["class"][kept].astype(np.int64) + 1),
    }
    if with_masks:
        texts = decode_masks(beton.field_bytes(MASKS, sample))
        masks = [decode_mask(texts[number], *stored) for number in np.flatnonzero(kept)]
        stacked = np.stack(masks) if masks else np.empty((0, *stored), np.uint8)
        target["masks"] = torch.from_numpy(np.ascontiguousarray(stacked[:, :, ::-1] if flip else stacked))
        target["mask_scale"] = torch.from_numpy((1 / scale).astype(np.float32))
    return target


def whole_scenes(
    data: DataConfig, beton: Beton, samples: Sequence[int], short_side: int, longest_side: int, workers: int
) -> Generator[Scenes, None, None]:
    """Images to measure on, one at a time in order, without targets; leaving this ends its threads."""
    reader, buffers = ImageReader(beton, data.on_bad), Buffers(pinned=False)

    def job(sample: int) -> tuple[Scenes, list[Task]]:
        size = scene_size(*reader.shape(sample), short_side, longest_side)
        images = buffers.take((1, *padded([size]), 3))

        def fill() -> None:
            image = reader.read(sample)
            crop_resize_into(images[0, : size[0], : size[1]], image, (0, 0, *image.shape[:2]), False, "bilinear")

        return Scenes(images.permute(0, 3, 1, 2), [size], np.array([sample], np.int64)), [fill]

    return in_order(map(job, samples), workers, data.batches_ahead)


def as_input(scenes: Scenes, normalise: Callable[[Tensor], Tensor]) -> Tensor:
    """The images as a network's input: normalised, and of the mean colour (zero) beyond their own sizes."""
    images = normalise(scenes.images).contiguous(memory_format=torch.channels_last)
    for image, (height, width) in zip(images, scenes.sizes, strict=True):
        image[:, height:] = 0
        image[:, :, width:] = 0
    return images
