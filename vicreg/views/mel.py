"""Spectrograms of mel bands, on the device that has the sound.

Not torchaudio's: its last release follows no torch, and what would be asked of it is a short Fourier transform, which
torch has, and one matrix. The bands are those of Slaney's Auditory Toolbox (linear below 1 kHz, logarithmic above;
triangles of equal area), as librosa has them by default.
"""

from __future__ import annotations

import functools
import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vicreg.sound_config import SoundConfig

_LINEAR_HZ, _BREAK_HZ = 200.0 / 3, 1000.0
_LOG_STEP = math.log(6.4) / 27
_LEAST_POWER = 1e-10


def hz_of_mel(mel: NDArray[np.float64]) -> NDArray[np.float64]:
    """Frequencies of places on the mel scale (Slaney's)."""
    bend = _BREAK_HZ / _LINEAR_HZ
    found: NDArray[np.float64] = np.where(
        mel < bend, mel * _LINEAR_HZ, _BREAK_HZ * np.exp(_LOG_STEP * (np.maximum(mel, bend) - bend))
    )
    return found


def mel_of_hz(frequency_hz: float) -> float:
    """The place of a frequency on the mel scale."""
    if frequency_hz < _BREAK_HZ:
        return frequency_hz / _LINEAR_HZ
    return _BREAK_HZ / _LINEAR_HZ + math.log(frequency_hz / _BREAK_HZ) / _LOG_STEP


def mel_bands(config: SoundConfig) -> NDArray[np.float64]:
    """Weights of the power at each frequency in each band (bands, window / 2 + 1)."""
    edges = hz_of_mel(np.linspace(0.0, mel_of_hz(config.rate_hz / 2), config.bands + 2))
    places = np.arange(config.window_samples // 2 + 1) * config.rate_hz / config.window_samples
    low, centre, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rising, falling = (places - low) / (centre - low), (high - places) / (high - centre)
    triangles: NDArray[np.float64] = np.maximum(0, np.minimum(rising, falling)) * 2 / (high - low)
    return triangles


class MelPicture(nn.Module):
    """Waveforms (B, 1, L) to pictures (B, 1, bands, 1 + L / hop) from 0 to 1, the lowest band first; no weights."""

    def __init__(self, config: SoundConfig) -> None:
        super().__init__()
        self.config = config

    def forward(self, waveforms: Tensor) -> Tensor:
        """See the class."""
        with torch.autocast(waveforms.device.type, enabled=False):
            return self._pictures(waveforms)

    def _pictures(self, waveforms: Tensor) -> Tensor:
        window, bands = _tables(self.config, waveforms.dtype, waveforms.device)
        spectrum = torch.stft(
            waveforms.flatten(0, 1),
            self.config.window_samples,
            self.config.hop_samples,
            window=window,
            center=True,
            pad_mode="reflect",
            return_complex=True,
        )
        power = bands @ spectrum.abs().square()
        decibels = 10 * torch.log10(power.clamp_min(_LEAST_POWER))
        loudest = decibels.amax((1, 2), keepdim=True)
        return ((decibels - loudest) / self.config.range_db + 1).clamp_min(0)[:, None]


@functools.lru_cache(maxsize=16)
def _tables(config: SoundConfig, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """The window and the bands, made once."""
    window, bands = torch.hann_window(config.window_samples, dtype=torch.float64), torch.from_numpy(mel_bands(config))
    return window.to(device, dtype), bands.to(device, dtype)
