"""Views of sound: what is drawn for each clip, and how it meets the samples, on whatever device these are.

As of images, every number is a function of (seed, epoch, sample, view), drawn on the CPU in small arrays that travel
with the batch. The noise is a table of white noise, of which each view gets a stretch that begins at a drawn place.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dataprep.beton.pixel_format import SOUND_SCALE
from vicreg.sound_config import SoundConfig, SoundKind, SoundViewConfig
from vicreg.views.keyed_random import uniform
from vicreg.views.mel import MelPicture
from vicreg.views.view_parameters import Key

NOISE_PLACES = 1 << 16
_NOISE_SEED = 0x5EED
_UNIFORM_STD = 12**-0.5


class SoundDraw(IntEnum):
    """Which number of a clip's view is drawn; a change of these changes the views of every run on sound."""

    CROP = 0
    GAIN = 1
    NOISE = 2
    NOISE_PLACE = 3
    TIME = 16  # this and the following, two for each mask: place and length
    FREQUENCY = 64


@dataclass(frozen=True)
class SoundPlan:
    """What happens to one view of a batch."""

    starts: NDArray[np.int64]
    """First sample of each view in its clip (B,)."""
    gain: Tensor
    """Factors (B, 1, 1)."""
    noise: Tensor
    """Deviations of the noise, for sound of deviation 1 (B, 1, 1)."""
    noise_places: Tensor
    """Where the noise begins in the table, int64 (B,)."""
    time_masks: Tensor
    """Begin and end of each stretch as shares of the view (B, n, 2)."""
    frequency_masks: Tensor
    """The same of all bands (B, n, 2)."""

    @classmethod
    def draw(cls, view: SoundViewConfig, key: Key, clip_samples: int, view_samples: int) -> SoundPlan:
        """The plan of some clips."""
        starts = np.floor(key.uniform(SoundDraw.CROP) * (clip_samples - view_samples + 1)).astype(np.int64)
        gain = 10 ** (key.between(SoundDraw.GAIN, -view.gain_db, view.gain_db) / 20)
        noise = key.between(SoundDraw.NOISE, 0.0, view.noise)
        places = np.floor(key.uniform(SoundDraw.NOISE_PLACE) * NOISE_PLACES).astype(np.int64)
        return cls(
            starts,
            _column(gain),
            _column(noise),
            torch.from_numpy(places),
            _masks(key, SoundDraw.TIME, view.time_masks, view.time_share),
            _masks(key, SoundDraw.FREQUENCY, view.frequency_masks, view.frequency_share),
        )

    def to(self, device: torch.device, non_blocking: bool = False) -> SoundPlan:
        """The same plan with its tensors on `device`."""
        tensors = (self.gain, self.noise, self.noise_places, self.time_masks, self.frequency_masks)
        return SoundPlan(self.starts, *(tensor.to(device, non_blocking=non_blocking) for tensor in tensors))


@torch.no_grad()
def prepare_sound(clips: Tensor, plan: SoundPlan, kind: SoundKind, sound: SoundConfig, std: float) -> Tensor:
    """A view of a batch, int16 (B, 1, L), as an encoder's float32 input: (B, 1, L), or (B, 1, bands, frames).

    std: deviation of the data set's sound, by which waveforms are divided.
    """
    waveforms = normalised(clips, std).mul_(plan.gain)
    waveforms.addcmul_(_noise(plan.noise_places, waveforms.shape[2])[:, None], plan.noise)
    if kind == "waveform":
        return waveforms.masked_fill_(_inside(plan.time_masks, waveforms.shape[2])[:, None], 0.0)
    pictures: Tensor = MelPicture(sound)(waveforms)
    pictures.masked_fill_(_inside(plan.time_masks, pictures.shape[3])[:, None, None], 0.0)
    return pictures.masked_fill_(_inside(plan.frequency_masks, pictures.shape[2])[:, None, :, None], 0.0)


def normalised(clips: Tensor, std: float) -> Tensor:
    """Sound as it is stored, int16, as float32 of deviation 1 over the data set."""
    return clips.to(torch.float32).mul_(1 / (SOUND_SCALE * std))


def _column(values: NDArray[np.float64]) -> Tensor:
    return torch.from_numpy(values.astype(np.float32))[:, None, None]


def _masks(key: Key, draw: int, count: int, largest: float) -> Tensor:
    """Begin and end of `count` stretches of up to `largest`, each anywhere inside (B, count, 2)."""
    found = np.empty((len(key.samples), count, 2), np.float32)
    for number in range(count):
        length = key.between(draw + 2 * number + 1, 0.0, largest)
        begin = key.uniform(draw + 2 * number) * (1 - length)
        found[:, number, 0], found[:, number, 1] = begin, begin + length
    return torch.from_numpy(found)


def _inside(masks: Tensor, places: int) -> Tensor:
    """Which of so many places lie in any stretch, by their middle: bool (B, places)."""
    middles = (torch.arange(places, device=masks.device, dtype=torch.float32) + 0.5) / places
    begins, ends = masks[:, :, :1], masks[:, :, 1:]
    return ((begins <= middles) & (middles < ends)).any(1)


def _noise(places: Tensor, samples: int) -> Tensor:
    """White noise of deviation 1 from these places on (B, samples)."""
    return _noise_table(samples, places.device).unfold(0, samples, 1)[places]


@functools.lru_cache(maxsize=8)
def _noise_table(samples: int, device: torch.device) -> Tensor:
    """Uniform, so that it needs no function whose last bit depends on the machine."""
    numbers = uniform(_NOISE_SEED, 0, np.arange(NOISE_PLACES + samples), 0, 0)
    return torch.from_numpy((numbers - np.float32(0.5)) / np.float32(_UNIFORM_STD)).to(device)
