"""Melodies of three notes that this project makes by itself: sound without a download.

A class is a way that the pitch goes (up, down, a hill, ...); key, tempo, loudness, timbre and noise are the clip's own.
Each clip is a WAV file in memory, so that it takes the path of any file.
"""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray

from dataprep.beton.keyed_choice import keys
from dataprep.writing.raw_source import Clips, Source, require_split

RATE_HZ, SECONDS = 8_000, 1.0
STEPS = {
    "down": (4, 2, 0),
    "fall": (7, 7, 0),
    "hill": (0, 7, 0),
    "level": (3, 3, 3),
    "rise": (0, 0, 7),
    "up": (0, 2, 4),
    "valley": (7, 0, 7),
    "wave": (0, 7, 4),
}
"""Semitones above the key of each note, by class."""
COUNTS = {"train": 640, "val": 160}
_FIRST = {"train": 0, "val": 1_000_000}  # numbers of clips: those of val are no others' with another seed


def open_split(split: str) -> Source:
    """The melodies of `train` or `val`; the same bytes every time."""
    require_split(split, tuple(COUNTS))
    count, names = COUNTS[split], tuple(STEPS)
    labels = np.arange(count, dtype=np.int64) % len(names)
    recordings = _FIRST[split] + np.arange(count, dtype=np.int64)
    return Source(
        name="tones",
        root="dataprep",
        split=split,
        classes=names,
        labels=labels,
        relative_path=lambda clip: f"{names[labels[clip]]}/{recordings[clip]}.wav",
        content=lambda clip: _wav(melody(STEPS[names[labels[clip]]], int(recordings[clip]))),
        clips=Clips(RATE_HZ, SECONDS, np.zeros(count, np.int64), recordings),
    )


def melody(steps: tuple[int, ...], number: int) -> NDArray[np.float64]:
    """The clip of that number (N,), from -1 to 1."""
    draws = iter((keys(64, number) % np.uint64(1 << 20)).astype(np.float64) / (1 << 20))
    key_hz = 200 * 2 ** (next(draws) * 1.5)
    loudness, overtone, noise = 0.1 + 0.3 * next(draws), 0.6 * next(draws), 0.03 * next(draws)
    length = (0.5 + 0.4 * next(draws)) * SECONDS / len(steps)
    begin = next(draws) * (SECONDS - length * len(steps))
    time_s = np.arange(round(RATE_HZ * SECONDS)) / RATE_HZ
    values = np.zeros_like(time_s)
    for place, step in enumerate(steps):
        since = time_s - begin - place * length
        inside = (since >= 0) & (since < length)
        pitch_hz, fade = key_hz * 2 ** (step / 12), np.exp(-3 * since / length)
        tone = np.sin(2 * np.pi * pitch_hz * since) + overtone * np.sin(4 * np.pi * pitch_hz * since)
        values += np.where(inside, tone * fade, 0.0)
    white = (keys(len(time_s), number + (1 << 32)) % np.uint64(1 << 20)).astype(np.float64) / (1 << 20) - 0.5
    found: NDArray[np.float64] = loudness * values + noise * white
    return found


def _wav(values: NDArray[np.float64]) -> bytes:
    import soundfile

    file = io.BytesIO()
    soundfile.write(file, np.rint(values * 32767).astype(np.int16), RATE_HZ, format="WAV", subtype="PCM_16")
    return file.getvalue()
