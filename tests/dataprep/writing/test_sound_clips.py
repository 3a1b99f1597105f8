"""What a file of sound becomes, against what it was made of; and what is refused, with the reason."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from dataprep.beton.pixel_format import sound_format
from dataprep.writing.images import ImageOptions
from dataprep.writing.sound_clips import BadClip, read_sound, store_clip, to_length
from tests.tones import encoded

RATE_HZ, LENGTH = 8_000, 2_000


def _stored(content: bytes, length: int = LENGTH) -> NDArray[np.int16]:
    stored = store_clip(content, ImageOptions("raw", None, 90, 1 << 20, sound_format(RATE_HZ), length))
    assert (stored.width, stored.height, len(stored.data)) == (length, 1, 2 * length)
    return np.frombuffer(stored.data, "<i2")


def _sine(pitch_hz: float, rate_hz: int, seconds: float = 0.25) -> NDArray[np.float64]:
    return 0.5 * np.sin(2 * np.pi * pitch_hz * np.arange(round(rate_hz * seconds)) / rate_hz)


def test_16_bits_come_back_as_they_were() -> None:
    values = np.random.default_rng(0).integers(-(1 << 15), 1 << 15, LENGTH).astype(np.int16)
    for kind in ("WAV", "FLAC"):
        np.testing.assert_array_equal(_stored(encoded(values, RATE_HZ, kind, "PCM_16")), values)


def test_channels_become_their_mean_and_ogg_is_read() -> None:
    left, right = _sine(300, RATE_HZ), _sine(700, RATE_HZ)
    stereo = np.stack([left, right], axis=1)
    np.testing.assert_allclose(_stored(encoded(stereo, RATE_HZ)) / 32768, (left + right) / 2, atol=1e-4)
    found = _stored(encoded(left, RATE_HZ, "OGG", "VORBIS")) / 32768
    assert np.corrcoef(found, left)[0, 1] > 0.99


@pytest.mark.parametrize("rate_hz", [44_100, 11_025, 4_000])
def test_another_rate_is_resampled_and_nothing_folds_back(rate_hz: int) -> None:
    inner = slice(100, -100)  # where the filter sees sound on both sides
    found = _stored(encoded(_sine(500, rate_hz), rate_hz)) / 32768
    np.testing.assert_allclose(found[inner], _sine(500, RATE_HZ)[inner], atol=2e-3)
    if rate_hz > 2 * 5_000:  # a tone that half the rate cannot hold
        folded = read_sound(encoded(_sine(5_000, rate_hz), rate_hz), RATE_HZ, 1 << 20)
        assert np.abs(folded[inner]).max() < 0.02


def test_the_middle_is_kept_or_stands_in_the_middle_of_silence() -> None:
    values = np.arange(1.0, 8.0)
    assert to_length(values, 3).tolist() == [3, 4, 5]
    assert to_length(values, 10).tolist() == [0, *range(1, 8), 0, 0]
    assert to_length(values, 7).tolist() == values.tolist()


def _cut(kind: str, subtype: str | None = None) -> bytes:
    content = encoded(_sine(300, RATE_HZ, 1.0), RATE_HZ, kind, subtype)
    return content[: len(content) * 3 // 4]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty file"),
        (b"label,path\n", "no sound that can be read"),
        (_cut("WAV"), "cut off: 4,011 bytes of its 16,000 are missing"),
        (encoded(_sine(300, RATE_HZ), RATE_HZ)[:30], "cut off: a WAV without samples"),
        (_cut("OGG", "VORBIS"), "cut off: an Ogg stream without its end"),
        (_cut("FLAC"), "cut off|no sound that can be read"),
        (encoded(np.zeros(LENGTH), RATE_HZ), "silent"),
        (encoded(np.full(LENGTH, np.nan), RATE_HZ, subtype="FLOAT"), "no finite numbers"),
        (encoded(np.zeros(0), RATE_HZ), "no samples"),
        (encoded(_sine(300, 500), 500), "1 channels at 500 Hz, allowed: 1,000 to 384,000 Hz"),
        (encoded(np.zeros((1 << 18, 5)), RATE_HZ), "262,144 samples, allowed: 209,715"),
    ],
)
def test_what_cannot_be_used_is_named(content: bytes, reason: str) -> None:
    with pytest.raises(BadClip, match=reason):
        _stored(content)
