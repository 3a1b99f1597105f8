"""Sound as a run is told of it: what a spectrogram is made of, and how views are made of a clip."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vicreg.checked import require

SoundKind = Literal["waveform", "spectrogram"]
"""What an encoder takes of sound."""


@dataclass(frozen=True)
class SoundConfig:
    """The sound that encoders take; spectrograms of it are pictures of mel bands, from 0 to 1 (paper, appendix D.2).

    Of the spectrograms no more is published; the settings are this project's.
    """

    rate_hz: int = 0
    """Samples of sound per second; 0: images. Follows the training data."""
    clip_samples: int = 0
    """Length of a clip. Follows the training data."""
    window_samples: int = 2048
    """Length of the Hann window and of the Fourier transform, even."""
    hop_samples: int = 512
    """Samples from one window to the next."""
    bands: int = 128
    """Mel bands, from 0 to half the rate."""
    range_db: float = 80.0
    """So far below a clip's loudest place is 0, the loudest place is 1."""

    def __post_init__(self) -> None:
        require(self.rate_hz >= 0, "sound.rate_hz", self.rate_hz, "0 (images) or more")
        require(self.clip_samples >= 0, "sound.clip_samples", self.clip_samples, "0 (images) or more")
        even = self.window_samples >= 16 and self.window_samples % 2 == 0
        require(even, "sound.window_samples", self.window_samples, "an even number of 16 or more")
        hops = 1 <= self.hop_samples <= self.window_samples
        require(hops, "sound.hop_samples", self.hop_samples, f"1 to the window's {self.window_samples}")
        most = self.window_samples // 4
        require(4 <= self.bands <= most, "sound.bands", self.bands, f"4 to {most}, a quarter of the window")
        require(self.range_db > 0, "sound.range_db", self.range_db, "above 0")
        both = bool(self.rate_hz) == bool(self.clip_samples)
        require(both, "sound.clip_samples", self.clip_samples, "above 0 with rate_hz, 0 without")
        if self.clip_samples:
            enough = self.clip_samples > self.window_samples // 2
            require(enough, "sound.clip_samples", self.clip_samples, f"above half the window, {self.window_samples}")

    @property
    def is_on(self) -> bool:
        """Whether the data are sound."""
        return self.rate_hz > 0

    @property
    def samples_are(self) -> str:
        """What a data set's samples are called where they are counted."""
        return "clips" if self.is_on else "images"

    def view_samples(self, view: SoundViewConfig) -> int:
        """Length of a view."""
        return self.clip_samples - round(self.clip_samples * view.crop)

    def frames(self, samples: int) -> int:
        """Columns of the spectrogram of so many samples: windows whose middle lies inside."""
        return 1 + samples // self.hop_samples


@dataclass(frozen=True)
class SoundViewConfig:
    """How views of one kind are made of a clip, in this order. Nothing of it is published."""

    crop: float = 0.1
    """Share of the clip that is cut off, at a place drawn anew; 0 for none."""
    gain_db: float = 6.0
    """Loudness changed by (-x, x) decibels. A spectrogram does not tell, since its loudest place is always 1."""
    noise: float = 0.1
    """Deviation of white noise over that of the data set's sound, drawn from (0, x)."""
    time_masks: int = 2
    """Stretches of the view that become silence, or dark in its spectrogram."""
    time_share: float = 0.1
    """Length of a stretch over the view's, drawn from (0, x)."""
    frequency_masks: int = 2
    """Stretches of mel bands that become dark; a waveform has none."""
    frequency_share: float = 0.15
    """Height of a stretch over all bands, drawn from (0, x)."""

    def __post_init__(self) -> None:
        require(0 <= self.crop <= 0.75, "sound.crop", self.crop, "a share from 0 to 0.75")
        for name in ("gain_db", "noise"):
            require(getattr(self, name) >= 0, f"sound.{name}", getattr(self, name), "0 or more")
        for name in ("time_masks", "frequency_masks"):
            require(0 <= getattr(self, name) <= 16, f"sound.{name}", getattr(self, name), "0 (none) to 16")
        for name in ("time_share", "frequency_share"):
            require(0 <= getattr(self, name) <= 1, f"sound.{name}", getattr(self, name), "a share from 0 to 1")


WHOLE_CLIP = SoundViewConfig(0.0, 0.0, 0.0, 0, 0.0, 0, 0.0)
"""A clip as it is, as evaluations see it."""


@dataclass(frozen=True)
class WaveResNetSize:
    """Channels of the first stage, doubled in each of the other three; blocks of each; what residuals begin at."""

    width: int
    blocks: int
    zero_residuals: bool = True


WAVE_ENCODERS = {
    "resnet18-wave": WaveResNetSize(48, 2),
    "resnet10-narrow-wave": WaveResNetSize(16, 1, zero_residuals=False),
}
"""By their names: the paper's width of 384, and a small one for trying things out."""


def takes(encoder: str) -> SoundKind:
    """What the encoder of that name takes of sound."""
    return "waveform" if encoder in WAVE_ENCODERS else "spectrogram"


def require_images(sound: SoundConfig, what: str) -> None:
    """ValueError where a run is of sound, for what takes images alone."""
    if sound.is_on:
        raise ValueError(
            f"{what} takes images, and this run is of sound at {sound.rate_hz:,} Hz; allowed for it: jobs/eval_all.py, "
            "jobs/report.py, and in Python vicreg.load(run).embed_beton(beton)"
        )
