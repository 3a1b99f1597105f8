"""Clips on a page: a tone lies where it is in its picture, a clip is heard as it is, and the gallery has both."""

from __future__ import annotations

import base64
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dataprep.beton.contract import Beton, open_beton
from jobs.reporting import pictures
from tests import tones
from vicreg.config import DataConfig, ModelConfig, SoundConfig
from vicreg.evals import gallery
from vicreg.evals.clip_pictures import played, spectrogram_of
from vicreg.evals.features import open_splits
from vicreg.exchange.encoder_file import untrained_encoder

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tones.write(tmp_path_factory.mktemp("tones"), 5)


@pytest.fixture(scope="module")
def train(folder: Path) -> Beton:
    return open_beton(folder / "train.beton")


def test_a_higher_tone_lies_higher_in_its_picture(train: Beton) -> None:
    rows = []
    for name in ("low", "middle", "high", "top"):
        sample = int(np.argmax(train.labels == sorted(tones.PITCHES_HZ).index(name)))
        picture = spectrogram_of(train, sample, 64)
        assert picture.size == (64, 64)
        rows.append(int(np.asarray(picture.convert("L"), np.float64).sum(1).argmax()))
    assert rows == sorted(rows, reverse=True)
    assert rows[0] - rows[-1] > 16


def test_what_is_played_is_the_clip(train: Beton) -> None:
    import soundfile

    for sample in (0, 7):
        values, rate_hz = soundfile.read(io.BytesIO(base64.b64decode(played(train, sample))))
        assert rate_hz == 8_000  # the lowest that MP3 has; the clip has 4,000
        spectrum = np.abs(np.fft.rfft(values[: len(values) // 2 * 2]))
        stored = train.decode(sample)[0, :, 0].astype(float)
        wanted = np.abs(np.fft.rfft(stored)).argmax() * 4_000 / len(stored)
        assert spectrum.argmax() * 8_000 / len(values) == pytest.approx(wanted, abs=12)
        assert np.abs(values).max() == pytest.approx(0.9, abs=0.15)


@pytest.fixture(scope="module")
def shown(folder: Path) -> dict[str, Any]:
    data = DataConfig(train=str(folder / "train.beton"), val=str(folder / "val.beton"), mean=(0.0,), std=(0.3,))
    sound = SoundConfig(tones.RATE_HZ, 1_000, window_samples=128, hop_samples=64, bands=16)
    encoder = untrained_encoder(ModelConfig(encoder="resnet10-narrow", channels=1, sound=sound), seed=1)
    splits = replace(open_splits(data, CPU, 1), batch=8)
    return gallery.evaluate(encoder, splits, gallery.Config(queries=3, neighbours=2)).details


def test_every_clip_that_is_shown_can_be_heard(shown: dict[str, Any], train: Beton) -> None:
    sounds = shown["neighbours"]["sounds"]
    assert len(sounds) == 3 * (1 + 2)
    assert sounds[1] == played(train, shown["neighbours"]["train_samples"][0][0])
    page = pictures.neighbours(shown)
    assert page.count("<audio controls") == len(sounds)
    assert all(f"data:audio/mpeg;base64,{sound}" in page for sound in sounds)
    assert "validation clip" in page
    assert "mel spectrograms" in page
    assert 'aria-label="Play training clip' in page
    assert '<ul class="neighbours heard">' in page
    assert "validation clips, coloured" in pictures.feature_map(shown)
