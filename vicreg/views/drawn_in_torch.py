"""The parameters of views drawn where the images lie, with the bits of `view_parameters`: the host sends nothing.

For data sets that lie on a GPU whole, whose steps are so short that drawing in numpy and sending would be a fifth of
them. All arithmetic is of a kind that IEEE rounds in one way only, operation by operation, so that numpy and any device
agree; tests compare the bits. Images have one size; rotations and RandAugment's operations are not drawn here.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from vicreg.view_config import ViewConfig
from vicreg.views.keyed_random import uniform_in_torch
from vicreg.views.view_parameters import JITTER_ORDERS, NUM_CROP_TRIES, Draw, Jitter, exponential, fallback_crops

NUM_DRAWS = Draw.CROP_TRIES + 2 * NUM_CROP_TRIES


class Drawing(NamedTuple):
    """What happens to one view of a batch."""

    boxes: Tensor
    """As `Geometry.boxes`: int64 (B, 4)."""
    flip: Tensor
    """bool (B,)."""
    settings: Tensor
    """As `ColourPlan.settings`: float32 (B, 11)."""


def reason_against(view: ViewConfig) -> str:
    """Why a view's parameters cannot be drawn here; empty where they can."""
    if view.rand_augment:
        return "RandAugment is drawn on the host"
    return "rotations are planned on the host" if view.rotation_deg else ""


def draw_in_torch(
    view: ViewConfig, seed: int, epoch: Tensor, samples: Tensor, view_number: int, height: int, width: int
) -> Drawing:
    """Crop, flip and colours of view `view_number` of each sample (B,), whose images have height x width pixels.

    epoch: int64 (), beside `samples` on their device.
    """
    draws = torch.arange(NUM_DRAWS, device=samples.device)
    numbers = uniform_in_torch(seed, epoch, samples, view_number, draws)
    return Drawing(_boxes(view, numbers, height, width), numbers[Draw.FLIP] < view.hflip_p, _settings(view, numbers))


def _between(numbers: Tensor, low: float, high: float) -> Tensor:
    return numbers * (high - low) + low


def _settings(view: ViewConfig, numbers: Tensor) -> Tensor:
    jittered = numbers[Draw.JITTER] < view.jitter_p

    def amount(draw: Draw, low: float, high: float, neutral: float) -> Tensor:
        return torch.where(jittered, _between(numbers[draw], low, high), neutral)

    def factor(draw: Draw, strength: float) -> Tensor:
        return amount(draw, max(0.0, 1 - strength), 1 + strength, 1.0)

    amounts = torch.stack(
        [
            factor(Draw.BRIGHTNESS, view.brightness),
            factor(Draw.CONTRAST, view.contrast),
            factor(Draw.SATURATION, view.saturation),
            amount(Draw.HUE, -view.hue, view.hue, 0.0),
        ],
        dim=1,
    ).to(torch.float32)
    order = _jitter_orders(numbers.device)[(numbers[Draw.JITTER_ORDER] * len(JITTER_ORDERS)).to(torch.int64)]
    ordered = amounts.gather(1, order)
    is_neutral = ordered == (order != Jitter.HUE)
    sigma_px = torch.where(
        numbers[Draw.BLUR] < view.blur_p, _between(numbers[Draw.BLUR_SIGMA], *view.blur_sigma_px), 0.0
    )
    rest = [numbers[Draw.GRAYSCALE] < view.grayscale_p, sigma_px, numbers[Draw.SOLARIZE] < view.solarize_p]
    columns = [torch.where(is_neutral, -1, order), ordered, *(column.view(-1, 1) for column in rest)]
    return torch.cat([column.to(torch.float32) for column in columns], dim=1)


@functools.lru_cache(maxsize=16)
def _jitter_orders(device: torch.device) -> Tensor:
    """Kept, because bringing them to a GPU would wait for the GPU."""
    return torch.from_numpy(JITTER_ORDERS.astype(np.int64)).to(device)


def _boxes(view: ViewConfig, numbers: Tensor, height: int, width: int) -> Tensor:
    """The first box that fits of all tries at once, else the fallback; see `view_parameters`."""
    tries = numbers[Draw.CROP_TRIES :]
    low, high = np.log(np.asarray(view.crop_ratio)).tolist()
    area_px, aspect = (
        _between(tries[::2], *view.crop_scale) * (height * width),
        exponential(_between(tries[1::2], low, high)),
    )
    tried = torch.stack([(area_px / aspect).sqrt_().round_(), (area_px * aspect).sqrt_().round_()])
    sides = [height, width]
    fits = torch.stack([(of > 0) & (of <= side) for of, side in zip(tried, sides, strict=True)]).all(0)
    number = torch.arange(NUM_CROP_TRIES, device=numbers.device).view(-1, 1)
    first = torch.where(fits, number, NUM_CROP_TRIES).amin(0)
    chosen = tried.gather(1, first.clamp_max(NUM_CROP_TRIES - 1).expand(2, 1, -1))[:, 0]
    fallback = [int(found[0]) for found in fallback_crops(view.crop_ratio, np.array([width]), np.array([height]))]
    columns = []
    for place, draw in enumerate((Draw.CROP_TOP, Draw.CROP_LEFT)):
        free = sides[place] + 1 - chosen[place]
        begin = (numbers[draw] * free).to(torch.int64)
        is_placed = first < NUM_CROP_TRIES
        columns.append(torch.where(is_placed, begin, (sides[place] - fallback[place]) // 2))
        columns.append(torch.where(is_placed, chosen[place].to(torch.int64), fallback[place]))
    top, box_height, left, box_width = columns
    return torch.stack([top, left, box_height, box_width], dim=1)
