"""Sound that tests make for themselves: tones of some pitches, as files and as betons."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dataprep.write_ffcv import main

RATE_HZ = 4_000
SECONDS = 0.25
PITCHES_HZ = {"low": 220.0, "middle": 440.0, "high": 880.0, "top": 1_500.0}


def tone(pitch_hz: float, seed: int, rate_hz: int = RATE_HZ, seconds: float = SECONDS) -> NDArray[np.float64]:
    """A tone with an overtone, a phase, a swell and some noise of its own, from -1 to 1."""
    random = np.random.default_rng(seed)
    time_s = np.arange(round(rate_hz * seconds)) / rate_hz
    phase, swell = random.uniform(0, 2 * np.pi), random.uniform(1, 8)
    values = np.sin(2 * np.pi * pitch_hz * time_s + phase) + 0.3 * np.sin(4 * np.pi * pitch_hz * time_s)
    values *= 0.6 + 0.4 * np.sin(2 * np.pi * swell * time_s)
    found: NDArray[np.float64] = 0.3 * values + random.normal(0, 0.02, len(values))
    return found


def encoded(
    values: NDArray[np.float64], rate_hz: int = RATE_HZ, kind: str = "WAV", subtype: str | None = None
) -> bytes:
    """The content of a file; values (N,) or (N, channels)."""
    import soundfile

    file = io.BytesIO()
    soundfile.write(file, values, rate_hz, format=kind, subtype=subtype)
    return file.getvalue()


def make_tree(root: Path, per_class: int) -> Path:
    """A folder of files per class; the numbers of the files go through all classes."""
    for place, (name, pitch_hz) in enumerate(PITCHES_HZ.items()):
        (root / name).mkdir(parents=True)
        for number in range(per_class):
            content = encoded(tone(pitch_hz * 1.02**number if number < 3 else pitch_hz, 1000 * place + number))
            (root / name / f"{number:03d}.wav").write_bytes(content)
    return root


def write(folder: Path, per_class: int, hold_out: str = r"/00[01]\.wav$") -> Path:
    """A folder with train.beton and val.beton, of which the first two files of each class are val."""
    make_tree(folder / "raw", per_class)
    arguments = ["audio", "--root", str(folder / "raw"), "--out", str(folder), "--hold-out", hold_out]
    stored = ["--rate-hz", str(RATE_HZ), "--clip-seconds", str(SECONDS), "--num-workers", "0"]
    assert main([*arguments, *stored]) == 0
    return folder


def write_folds(
    folder: Path, per_class: int, folds: int, held_out: int, recordings: str = r"(?P<recording>\d+)"
) -> Path:
    """The same with folds 1 to `folds`, of which one is val; every file is a recording of its own,
    and pitches overlap."""
    random = np.random.default_rng(0)
    for place, (name, pitch_hz) in enumerate(PITCHES_HZ.items()):
        (folder / "raw" / name).mkdir(parents=True)
        for number in range(per_class):
            content = encoded(0.5 * tone(pitch_hz * random.uniform(0.6, 1.7), 1000 * place + number))
            path = folder / "raw" / name / f"{1 + number % folds}-{1000 * place + number}.wav"
            path.write_bytes(content)
    pattern = rf"^(?P<label>\w+)/(?P<fold>\d)-{recordings}\.wav$"
    arguments = ["audio", "--root", str(folder / "raw"), "--out", str(folder), "--fold", str(held_out)]
    stored = ["--rate-hz", str(RATE_HZ), "--clip-seconds", str(SECONDS), "--num-workers", "0", "--pattern", pattern]
    assert main([*arguments, *stored]) == 0
    return folder
