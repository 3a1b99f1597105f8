"""The changes of a view's values, batched, in torch: rotation, colour jitter, grayscale, blur, solarise, normalise.

Per-sample parameters are drawn elsewhere (`view_parameters`); here they meet the pixels, on whatever device these are.
An operation touches only the samples that it is meant for; which ones is planned on the host, so that a GPU is never
waited for. The operations are Pillow's, which the official program uses, in floating point: Pillow cuts off to 8 bits
after every operation of the jitter, this never, and its views are 1.2 of 255 brighter on average. Each sample's result
depends on nothing but its own pixels and parameters. Channels that are no colours change in brightness and contrast,
each by its own amount.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from types import ModuleType
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vicreg import kernels
from vicreg.views import rand_augment
from vicreg.views.blur import blur, radius_px
from vicreg.views.colour_operations import OPERATIONS, Operation, by_channel
from vicreg.views.view_parameters import Colour, Jitter, Rand

ONE_BY_ONE_MIN_PX = 96
"""On a CPU images of this side and above are changed one by one, in place, while they lie in the processor's cache."""


SIGMA_COLUMN = 9
"""Of `ColourPlan.settings`: the blur's standard deviation."""
NO_BLUR_PX = 1e-3
"""Of a blur whose weights are 1 in the middle and 0 beside it, in float32."""


class Stage(NamedTuple):
    """One operation on some samples of a block."""

    operation: Operation | Rand
    entries: slice
    """Whose samples and amounts: entries of the plan's arrays."""
    first: int
    """Place of the first sample within the block, when the samples are neighbours; else -1."""
    radius_px: int
    """Of a blur: half the width of the widest kernel."""


class Block(NamedTuple):
    """Samples that are finished before the next are begun."""

    first: int
    num_samples: int
    stages: list[Stage]


@dataclass(frozen=True)
class ColourPlan:
    """Which operation changes which samples of a batch, in which order and by how much."""

    blocks: list[Block]
    samples: Tensor
    """Places in the batch, for all stages one after the other: int64 (n,)."""
    amounts: Tensor
    """Factor, shift, angle or standard deviation for each of `samples`: float32 (n, 1, 1, 1), or (n, C, 1, 1)."""
    settings: Tensor
    """The same by sample, as `colour_kernels.NUM_COLUMNS` says: float32 (B, 11). Of channels that are no colours
    (B, 0)."""
    is_in_settings: bool
    """Whether that is all: rotations and RandAugment's operations are not in it."""
    is_drawn_in_torch: bool = False
    """Whether the host knows nothing of it: then every operation passes over every image, and blocks only blur."""

    @classmethod
    def build(cls, colour: Colour, angle_rad: NDArray[np.float32], one_by_one: bool = False) -> ColourPlan:
        """Plan for a batch (B,) as one block, or with one_by_one as one block per sample.

        One block means few and large operations, for GPUs and for small images. Where the images of a batch exceed a
        CPU's cache, one by one is several times faster.
        """
        steps = _steps(colour, angle_rad)
        samples = np.concatenate([np.empty(0, np.int64), *(step[1] for step in steps)])
        width = colour.brightness.shape[1] if colour.brightness.ndim == 2 else 1
        amounts = np.concatenate([np.empty((0, width), np.float32), *(_columns(step[2], width) for step in steps)])
        if one_by_one:
            operations = [operation for operation, changed, _ in steps for _ in changed]
            order = np.argsort(samples, kind="stable")
            samples, amounts = samples[order], amounts[order]
            blocks = [Block(sample, 1, []) for sample in range(len(angle_rad))]
            by_entry = zip(samples.tolist(), order.tolist(), amounts.max(1), strict=True)
            for entry, (sample, source, largest) in enumerate(by_entry):
                radius_px = _radius_px(operations[source], largest)
                blocks[sample].stages.append(Stage(operations[source], slice(entry, entry + 1), 0, radius_px))
        else:
            blocks = [Block(0, len(angle_rad), [])]
            begin = 0
            for operation, changed, by in steps:
                entries = slice(begin, begin := begin + len(changed))
                neighbours = changed[-1] - changed[0] + 1 == len(changed)
                first = int(changed[0]) if neighbours else -1
                blocks[0].stages.append(Stage(operation, entries, first, _radius_px(operation, by.max())))
        settings = torch.from_numpy(_settings(colour))
        is_in_settings = not angle_rad.any() and not colour.rand_operations.size
        amounts_of = torch.from_numpy(amounts)[:, :, None, None]
        return cls(blocks, torch.from_numpy(samples), amounts_of, settings, is_in_settings)

    @classmethod
    def from_settings(cls, settings: Tensor, largest_sigma_px: float) -> ColourPlan:
        """Plan for a batch whose settings are on its images' device, and stay there; no image is blurred by more.

        largest_sigma_px: 0 where none is. Images that are not to be blurred are by so little that they stay as they
        are to the bit.
        """
        sigmas_px = settings[:, SIGMA_COLUMN].clamp_min(NO_BLUR_PX).view(-1, 1, 1, 1)
        count = len(settings)
        blurs = [Stage(Operation.BLUR, slice(0, count), 0, radius_px(largest_sigma_px))] if largest_sigma_px else []
        everyone = torch.arange(count, device=settings.device)
        return cls([Block(0, count, blurs)], everyone, sigmas_px, settings, True, True)

    def to(self, device: torch.device, non_blocking: bool = False) -> ColourPlan:
        """The same plan with its tensors on `device`."""
        moved = {
            name: getattr(self, name).to(device, non_blocking=non_blocking)
            for name in ("samples", "amounts", "settings")
        }
        return replace(self, **moved)


@torch.no_grad()
def augment(views: Tensor, plan: ColourPlan, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """One view of a batch, as `Batch` has them (B, C, S, S), as the model's float32 input (B, C, S, S).

    Values are 0 to 1 before `mean` and `std` (of each channel) normalise them. Nothing is synchronised with the
    host when `views` and `plan` are on a GPU.
    """
    offset = by_channel(tuple(-m / s for m, s in zip(mean, std, strict=True)), views.device)
    scale = by_channel(tuple(1 / s for s in std), views.device)
    is_rgb = views.dtype == torch.uint8
    own = kernels.load("vicreg.views.colour_kernels", views.device) if is_rgb else None
    if own and plan.is_in_settings:
        return _augment_in_kernels(own, views, plan, scale, offset)
    result = _empty(views.shape, views.device)
    if plan.is_drawn_in_torch:
        return _augment_by_masks(views, plan, result).mul_(scale).add_(offset)
    with _one_thread() if views.device.type == "cpu" else nullcontext():
        for first, num_samples, stages in plan.blocks:
            images = result[first : first + num_samples]
            images.copy_(views[first : first + num_samples])
            if is_rgb:
                images.mul_(1 / 255)
            for stage in stages:
                _run(stage, images, plan.samples, plan.amounts)
            images.mul_(scale).add_(offset)
    return result


def _augment_in_kernels(own: ModuleType, views: Tensor, plan: ColourPlan, scale: Tensor, offset: Tensor) -> Tensor:
    """The same on a GPU: but for the blur, all operations of an image in one go."""
    result: Tensor = own.before_blur(views, plan.settings, scale, offset)
    blurs = [(block, stage) for block in plan.blocks for stage in block.stages if stage.operation == Operation.BLUR]
    for block, stage in blurs:
        _run(stage, result[block.first : block.first + block.num_samples], plan.samples, plan.amounts)
    if blurs:
        own.after_blur(result, plan.settings, scale, offset)
    return result


def _augment_by_masks(views: Tensor, plan: ColourPlan, images: Tensor) -> Tensor:
    """The same in torch's operations where the host does not know which images they change: over all, then masked."""
    images.copy_(views).mul_(1 / 255)
    columns = plan.settings.view(*plan.settings.shape, 1, 1, 1).unbind(1)
    jitter = [Operation(change) for change in Jitter]
    masks = [(change, columns[place] == change, columns[4 + place]) for place in range(4) for change in jitter]
    masks.append((Operation.GRAYSCALE, columns[8] != 0, columns[8]))
    for operation, changes, amounts in masks:
        changed = images.clone()
        OPERATIONS[operation](changed, amounts)
        images = torch.where(changes, changed, images)
    for block in plan.blocks:
        for stage in block.stages:
            _run(stage, images, plan.samples, plan.amounts)
    return torch.where(columns[10] != 0, torch.minimum(images, 1 - images), images)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Without torch's threads: the operations are short, and to meet after each costs more than is gained.

    Where decoding threads keep the cores busy it costs a hundred times more (measured: 390 ms instead of 4 for 256
    views of 32 px on two busy cores).
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _empty(shape: torch.Size, device: torch.device) -> Tensor:
    """New memory for float32; on a CPU from numpy, which asks for huge pages (a tenth of the page faults)."""
    if device.type == "cpu":
        return torch.from_numpy(np.empty(shape, np.float32))
    return torch.empty(shape, dtype=torch.float32, device=device)


def _run(stage: Stage, images: Tensor, samples: Tensor, amounts: Tensor) -> None:
    """One stage on the images of its block, in place; neighbours without a copy."""
    amounts = amounts[stage.entries]
    if stage.operation not in (Operation.BRIGHTNESS, Operation.CHANNEL_CONTRAST):
        amounts = amounts[:, :1]  # of all channels the same
    where = samples[stage.entries] if stage.first < 0 else None
    part = images[where] if where is not None else images[stage.first : stage.first + len(amounts)]
    if stage.operation == Operation.BLUR:
        blur(part, amounts, stage.radius_px)
    else:
        OPERATIONS[stage.operation](part, amounts)
    if where is not None:
        images.index_copy_(0, where, part)


def _settings(colour: Colour) -> NDArray[np.float32]:
    """See `ColourPlan.settings`; a change whose amount changes nothing is none."""
    if colour.brightness.ndim == 2:
        return np.empty((len(colour.brightness), 0), np.float32)
    amounts = np.stack([colour.brightness, colour.contrast, colour.saturation, colour.hue], axis=1)
    order = colour.order.astype(np.int64)
    ordered = np.take_along_axis(amounts, order, axis=1)
    neutral = ordered == np.array([1, 1, 1, 0], np.float32)[order]
    rest = np.stack([colour.grayscale, colour.sigma_px, colour.solarize], axis=1)
    return np.concatenate([np.where(neutral, -1, order), ordered, rest], axis=1).astype(np.float32)


def _columns(amounts: NDArray[np.float32], width: int) -> NDArray[np.float32]:
    """Amounts (n,) or (n, C) as (n, width)."""
    return np.broadcast_to(amounts.reshape(len(amounts), -1), (len(amounts), width))


Step = tuple[Operation | Rand, NDArray[np.int64], NDArray[np.float32]]
"""An operation, the samples that it changes, and by how much each (n,), or each of its channels (n, C)."""


def _steps(colour: Colour, angle_rad: NDArray[np.float32]) -> list[Step]:
    """The operations on a batch in the order in which they run, those without samples left out."""
    jitter = (colour.brightness, colour.contrast, colour.saturation, colour.hue)
    neutral = (1.0, 1.0, 1.0, 0.0)
    no_amount = np.zeros(len(angle_rad), np.float32)
    wishes: list[tuple[Operation | Rand, NDArray[np.float32], NDArray[np.bool_]]] = [
        (Operation.ROTATE, angle_rad, angle_rad != 0)
    ]
    for place in range(len(Jitter)):
        for change in Jitter:
            changes = (jitter[change] != neutral[change]).reshape(len(angle_rad), -1).any(axis=1)
            wanted = (colour.order[:, place] == change) & changes
            has_own = change == Jitter.CONTRAST and jitter[change].ndim == 2
            operation = Operation.CHANNEL_CONTRAST if has_own else Operation(change)
            wishes.append((operation, jitter[change], wanted))
    wishes.append((Operation.GRAYSCALE, no_amount, colour.grayscale))
    wishes.append((Operation.BLUR, colour.sigma_px, colour.sigma_px > 0))
    wishes.append((Operation.SOLARIZE, no_amount, colour.solarize))
    for operations, by in zip(colour.rand_operations.T, colour.rand_amounts.T, strict=True):
        for number in np.unique(operations[operations >= 0]).tolist():
            chosen = Rand(number) if number in rand_augment.OPERATIONS else Operation(number)
            wishes.append((chosen, by, operations == number))
    return [(operation, np.flatnonzero(on), amounts[on]) for operation, amounts, on in wishes if on.any()]


def _radius_px(operation: Operation | Rand, largest: float) -> int:
    return radius_px(largest) if operation == Operation.BLUR else 0
