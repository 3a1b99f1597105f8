"""The changes of a view's values, batched, in torch: rotation, colour jitter, grayscale, blur, solarise, normalise.

Per-sample parameters are drawn elsewhere (`view_parameters`); here they meet the pixels, on whatever device these are.
An operation touches only the samples that it is meant for; which ones is planned on the host, so that a GPU is never
waited for. The operations are Pillow's, which the official program uses, in floating point: Pillow cuts off to 8 bits
after every operation of the jitter, this never, and its views are 1.2 of 255 brighter on average. Each sample's result
depends on nothing but its own pixels and parameters.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from enum import IntEnum
from types import ModuleType
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vicreg import kernels
from vicreg.views import rand_augment
from vicreg.views.blur import blur, radius_px
from vicreg.views.view_parameters import Colour, Jitter, Rand

GRAY = (19595 / 65536, 38470 / 65536, 7471 / 65536)
"""Weights of red, green and blue in Pillow's conversion to "L"."""
ONE_BY_ONE_MIN_PX = 96
"""On a CPU images of this side and above are changed one by one, in place, while they lie in the processor's cache."""


class Operation(IntEnum):
    """What can happen to an image; the first four are `Jitter`'s."""

    BRIGHTNESS = Jitter.BRIGHTNESS
    CONTRAST = Jitter.CONTRAST
    SATURATION = Jitter.SATURATION
    HUE = Jitter.HUE
    ROTATE = 4
    GRAYSCALE = 5
    BLUR = 6
    SOLARIZE = 7


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
    """Factor, shift, angle or standard deviation for each of `samples`: float32 (n, 1, 1, 1)."""
    settings: Tensor
    """The same by sample, as `colour_kernels.NUM_COLUMNS` says: float32 (B, 11)."""
    is_in_settings: bool
    """Whether that is all: rotations and RandAugment's operations are not in it."""

    @classmethod
    def build(cls, colour: Colour, angle_rad: NDArray[np.float32], one_by_one: bool = False) -> ColourPlan:
        """Plan for a batch (B,) as one block, or with one_by_one as one block per sample.

        One block means few and large operations, for GPUs and for small images. Where the images of a batch exceed a
        CPU's cache, one by one is several times faster.
        """
        steps = _steps(colour, angle_rad)
        samples = np.concatenate([np.empty(0, np.int64), *(step[1] for step in steps)])
        amounts = np.concatenate([np.empty(0, np.float32), *(step[2] for step in steps)])
        if one_by_one:
            operations = [operation for operation, changed, _ in steps for _ in changed]
            order = np.argsort(samples, kind="stable")
            samples, amounts = samples[order], amounts[order]
            blocks = [Block(sample, 1, []) for sample in range(len(angle_rad))]
            for entry, (sample, source) in enumerate(zip(samples.tolist(), order.tolist(), strict=True)):
                radius_px = _radius_px(operations[source], amounts[entry])
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
        amounts_of = torch.from_numpy(amounts).view(-1, 1, 1, 1)
        return cls(blocks, torch.from_numpy(samples), amounts_of, settings, is_in_settings)

    def to(self, device: torch.device, non_blocking: bool = False) -> ColourPlan:
        """The same plan with its tensors on `device`."""
        moved = {
            name: getattr(self, name).to(device, non_blocking=non_blocking)
            for name in ("samples", "amounts", "settings")
        }
        return replace(self, **moved)


@torch.no_grad()
def augment(views: Tensor, plan: ColourPlan, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """One view of a batch, uint8 (B, 3, S, S) in any memory layout, as the model's float32 input (B, 3, S, S).

    Values are 0 to 1 before `mean` and `std` (of the three channels) normalise them. Nothing is synchronised with the
    host when `views` and `plan` are on a GPU.
    """
    offset = _channels(tuple(-m / s for m, s in zip(mean, std, strict=True)), views.device)
    scale = _channels(tuple(1 / s for s in std), views.device)
    own = kernels.load("vicreg.views.colour_kernels", views.device)
    if own and plan.is_in_settings:
        return _augment_in_kernels(own, views, plan, scale, offset)
    result = _empty(views.shape, views.device)
    with _one_thread() if views.device.type == "cpu" else nullcontext():
        for first, num_samples, stages in plan.blocks:
            images = result[first : first + num_samples]
            images.copy_(views[first : first + num_samples]).mul_(1 / 255)
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
    where = samples[stage.entries] if stage.first < 0 else None
    part = images[where] if where is not None else images[stage.first : stage.first + len(amounts)]
    if stage.operation == Operation.BLUR:
        blur(part, amounts, stage.radius_px)
    else:
        _OPERATIONS[stage.operation](part, amounts)
    if where is not None:
        images.index_copy_(0, where, part)


def _settings(colour: Colour) -> NDArray[np.float32]:
    """See `ColourPlan.settings`; a change whose amount changes nothing is none."""
    amounts = np.stack([colour.brightness, colour.contrast, colour.saturation, colour.hue], axis=1)
    order = colour.order.astype(np.int64)
    ordered = np.take_along_axis(amounts, order, axis=1)
    neutral = ordered == np.array([1, 1, 1, 0], np.float32)[order]
    rest = np.stack([colour.grayscale, colour.sigma_px, colour.solarize], axis=1)
    return np.concatenate([np.where(neutral, -1, order), ordered, rest], axis=1).astype(np.float32)


Step = tuple[Operation | Rand, NDArray[np.int64], NDArray[np.float32]]
"""An operation, the samples that it changes, and by how much each."""


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
            wanted = (colour.order[:, place] == change) & (jitter[change] != neutral[change])
            wishes.append((Operation(change), jitter[change], wanted))
    wishes.append((Operation.GRAYSCALE, no_amount, colour.grayscale))
    wishes.append((Operation.BLUR, colour.sigma_px, colour.sigma_px > 0))
    wishes.append((Operation.SOLARIZE, no_amount, colour.solarize))
    for operations, amounts in zip(colour.rand_operations.T, colour.rand_amounts.T, strict=True):
        for number in np.unique(operations[operations >= 0]).tolist():
            operation = Rand(number) if number in rand_augment.OPERATIONS else Operation(number)
            wishes.append((operation, amounts, operations == number))
    return [(operation, np.flatnonzero(on), amounts[on]) for operation, amounts, on in wishes if on.any()]


def _radius_px(operation: Operation | Rand, largest: float) -> int:
    return radius_px(largest) if operation == Operation.BLUR else 0


def _brightness(images: Tensor, factors: Tensor) -> None:
    images.mul_(factors).clamp_(0, 1)


def _contrast(images: Tensor, factors: Tensor) -> None:
    """Away from the mean of the gray image, which Pillow rounds to 8 bits."""
    red, green, blue = _rgb(images.mean((2, 3), keepdim=True))
    mean = (red * GRAY[0] + green * GRAY[1] + blue * GRAY[2]).mul_(255).add_(0.5).floor_().div_(255)
    images.mul_(factors).add_(mean.mul_(1 - factors)).clamp_(0, 1)


def _saturation(images: Tensor, factors: Tensor) -> None:
    """Away from the gray image."""
    torch.addcmul(_gray(images).mul_(1 - factors), images, factors, out=images).clamp_(0, 1)


def _hue(images: Tensor, shifts: Tensor) -> None:
    """Turn the hue of hue, saturation and value; exact, where Pillow rounds all three to 8 bits.

    With hue h in turns, value v and chroma c, a channel is v - c * clamp(2 - 6 d, 0, 1), d being the distance on the
    colour wheel from h to the hue opposite the channel's own: red 1/2, green 5/6, blue 1/6. The largest channel is
    picked with weights 0 and 1, which on CPUs is several times faster than with a condition.
    """
    red, green, blue = _rgb(images)
    value = torch.maximum(red, green).maximum(blue)
    chroma = value - torch.minimum(red, green).minimum(blue)
    sixths = torch.lerp((red - green).add_(chroma, alpha=4), (blue - red).add_(chroma, alpha=2), (value - green).eq_(0))
    sixths = torch.lerp(sixths, green - blue, (value - red).eq_(0)).div_(chroma.clamp_min(1e-12))
    # 2 whole turns keep the sum positive, so that frac() is its place on the wheel; d is 1/2 - |place - 1/2|, so that
    # clamp(2 - 6 d, 0, 1) is 6 * clamp(|place - 1/2|, 1/6, 1/3) - 1.
    places = torch.add(shifts + _channels((2 - 1 / 2, 2 - 5 / 6, 2 - 1 / 6), images.device), sixths, alpha=1 / 6)
    apart = places.frac_().sub_(0.5).abs_().clamp_(1 / 6, 1 / 3)
    torch.addcmul(value.add_(chroma), apart, chroma.mul_(-6), out=images)


def _grayscale(images: Tensor, _: Tensor) -> None:
    images.copy_(_gray(images).expand_as(images))


def _solarize(images: Tensor, _: Tensor) -> None:
    """Invert what is 128 and above; between 127 and 128 there is nothing in 8 bits, so it is 1/2 here."""
    torch.minimum(images, 1 - images, out=images)


def _gray(images: Tensor) -> Tensor:
    red, green, blue = _rgb(images)
    return (red * GRAY[0]).add_(green, alpha=GRAY[1]).add_(blue, alpha=GRAY[2])


def _rgb(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return images[:, :1], images[:, 1:2], images[:, 2:]


@functools.lru_cache(maxsize=64)
def _channels(values: tuple[float, ...], device: torch.device) -> Tensor:
    """A constant per channel (3, 1, 1); kept, because bringing it to a GPU would wait for the GPU."""
    return torch.tensor(values, dtype=torch.float32, device=device).view(-1, 1, 1)


_OPERATIONS: dict[Operation | Rand, Callable[[Tensor, Tensor], None]] = {
    Operation.BRIGHTNESS: _brightness,
    Operation.CONTRAST: _contrast,
    Operation.SATURATION: _saturation,
    Operation.HUE: _hue,
    Operation.ROTATE: lambda images, angles_rad: rand_augment.rotate(images, angles_rad, fill=(0.0, 0.0, 0.0)),
    Operation.GRAYSCALE: _grayscale,
    Operation.SOLARIZE: _solarize,
    **rand_augment.OPERATIONS,
}
