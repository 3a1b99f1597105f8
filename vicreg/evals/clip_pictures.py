"""Clips as a page can show them: a spectrogram to look at, and a small file to listen to."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from dataprep.beton.contract import Beton
from dataprep.beton.pixel_format import SOUND_SCALE
from dataprep.writing.sound_clips import resampled
from vicreg.sound_config import SoundConfig
from vicreg.views.mel import MelPicture

WINDOW_S = 0.032
MAX_PLAYED_S = 10.0  # bounds the size of a result: 84 clips are 2.5 MB
PLAYED_RATES_HZ = (8_000, 11_025, 12_000, 16_000, 22_050)  # of MP3, which every browser plays
QUALITY = 0.8  # 0 is the best, 1 the smallest
PALETTE = np.array([[10, 10, 35], [70, 30, 110], [190, 60, 90], [250, 160, 60], [255, 245, 200]], np.float64)
"""From quiet to loud, evenly in lightness."""


def spectrogram_of(beton: Beton, sample: int, side_px: int) -> Image.Image:
    """A clip's mel spectrogram as a square picture, time to the right, low bands at the bottom."""
    clip, rate_hz = _samples(beton, sample), beton.pixels.rate_hz
    window = 1 << max(4, round(np.log2(rate_hz * WINDOW_S)))
    window = min(window, 1 << (len(clip).bit_length() - 1))
    config = SoundConfig(
        rate_hz, len(clip), window, max(1, min(window, len(clip) // (2 * side_px))), max(4, window // 8)
    )
    picture = MelPicture(config)(torch.from_numpy(clip.astype(np.float32) / SOUND_SCALE)[None, None])[0, 0].numpy()
    places = picture[::-1] * (len(PALETTE) - 1)
    colours = np.stack([np.interp(places, np.arange(len(PALETTE)), channel) for channel in PALETTE.T], axis=2)
    return Image.fromarray(np.rint(colours).astype(np.uint8)).resize((side_px, side_px), Image.Resampling.BICUBIC)


def played(beton: Beton, sample: int) -> str:
    """The beginning of a clip as MP3, in base64."""
    import soundfile  # libsndfile: a tenth of a second that only sound waits for

    rate_hz = beton.pixels.rate_hz
    to_hz = max([rate for rate in PLAYED_RATES_HZ if rate <= rate_hz], default=PLAYED_RATES_HZ[0])
    values = _samples(beton, sample)[: round(MAX_PLAYED_S * rate_hz)] / SOUND_SCALE
    loudest = np.abs(values).max()
    file = io.BytesIO()
    heard = resampled(values * (0.9 / loudest if loudest else 1.0), rate_hz, to_hz)
    soundfile.write(
        file, heard, to_hz, format="MP3", subtype="MPEG_LAYER_III", bitrate_mode="VARIABLE", compression_level=QUALITY
    )
    return base64.b64encode(file.getvalue()).decode("ascii")


def _samples(beton: Beton, sample: int) -> NDArray[Any]:
    found: NDArray[Any] = beton.decode(sample)[0, :, 0]
    return found
