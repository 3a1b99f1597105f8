"""Views of sound against plain numpy: spectrograms, what is drawn, and how it meets the samples."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from vicreg.sound_config import WHOLE_CLIP, SoundConfig, SoundViewConfig
from vicreg.views.mel import MelPicture, hz_of_mel, mel_bands, mel_of_hz
from vicreg.views.sound import SoundPlan, normalised, prepare_sound
from vicreg.views.view_parameters import Key

SOUND = SoundConfig(8_000, 1_000, window_samples=128, hop_samples=32, bands=20)
SAMPLES = np.arange(5, dtype=np.int64)


def _clips(length: int = 1_000) -> torch.Tensor:
    values = np.random.default_rng(0).normal(0, 3_000, (5, 1, length)).cumsum(2) * 0.1
    return torch.from_numpy(values.clip(-32768, 32767).astype(np.int16))


def _plan(view: SoundViewConfig, epoch: int = 3, number: int = 1, samples: NDArray[np.int64] = SAMPLES) -> SoundPlan:
    return SoundPlan.draw(view, Key(7, epoch, samples, number), 1_000, SOUND.view_samples(view))


def _picture(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """A spectrogram by the definition: each window's sums of cosines and sines, each band's sum of its triangle."""
    window, hop, bands = SOUND.window_samples, SOUND.hop_samples, SOUND.bands
    edges = [hz_of_mel(np.array(mel)).item() for mel in np.linspace(0, mel_of_hz(4_000), bands + 2)]
    padded = np.pad(values, window // 2, mode="reflect")
    time = np.arange(window)
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * time / window)
    power = np.empty((window // 2 + 1, 1 + len(values) // hop))
    for column in range(power.shape[1]):
        part = padded[column * hop : column * hop + window] * hann
        for row in range(power.shape[0]):
            angle = 2 * np.pi * row * time / window
            power[row, column] = (part @ np.cos(angle)) ** 2 + (part @ np.sin(angle)) ** 2
    mel = np.zeros((bands, power.shape[1]))
    for band in range(bands):
        low, centre, high = edges[band : band + 3]
        for row in range(power.shape[0]):
            place = row * 8_000 / window
            if low < place < high:
                side = (place - low) / (centre - low) if place <= centre else (high - place) / (high - centre)
                mel[band] += 2 / (high - low) * side * power[row]
    decibels = 10 * np.log10(np.maximum(mel, 1e-10))
    return np.maximum((decibels - decibels.max()) / SOUND.range_db + 1, 0)


def test_a_spectrogram_is_that_of_the_definition() -> None:
    waveforms = normalised(_clips(), 0.1).double()
    pictures = MelPicture(SOUND)(waveforms)
    assert pictures.shape == (5, 1, 20, SOUND.frames(1_000))
    for picture, waveform in zip(pictures, waveforms, strict=True):
        np.testing.assert_allclose(picture[0].numpy(), _picture(waveform[0].numpy()), atol=1e-9)
    single = MelPicture(SOUND)(waveforms.float())
    np.testing.assert_allclose(single, pictures, atol=1e-4)
    assert (pictures.amax((1, 2, 3)) == 1).all()


def test_bands_are_those_of_the_auditory_toolbox() -> None:
    # Linear below 1 kHz at 200/3 Hz to the mel, then 27 steps to a factor of 6.4.
    assert mel_of_hz(500) == pytest.approx(7.5)
    assert mel_of_hz(6_400) == pytest.approx(15 + 27)
    places = np.array([0.0, 7.5, 15.0, 42.0])
    np.testing.assert_allclose(hz_of_mel(places), [0, 500, 1_000, 6_400])
    bands = mel_bands(replace(SOUND, clip_samples=4_000, window_samples=2048, bands=40))
    areas = bands.sum(1) * 8_000 / 2048
    np.testing.assert_allclose(areas, 1, rtol=0.03)


def test_loudness_changes_no_spectrogram() -> None:
    waveforms = normalised(_clips(), 0.1).double()
    np.testing.assert_allclose(MelPicture(SOUND)(waveforms), MelPicture(SOUND)(2 * waveforms), atol=1e-9)


def test_what_is_drawn_depends_on_its_keys_alone() -> None:
    view = SoundViewConfig()
    whole, part = _plan(view), _plan(view, samples=SAMPLES[[3, 1]])
    for name in ("gain", "noise", "noise_places", "time_masks", "frequency_masks"):
        assert torch.equal(getattr(whole, name)[[3, 1]], getattr(part, name)), name
    assert np.array_equal(whole.starts[[3, 1]], part.starts)
    for other in (_plan(view, epoch=4), _plan(view, number=0)):
        assert not torch.equal(whole.gain, other.gain)
        assert not np.array_equal(whole.starts, other.starts)


def test_draws_stay_inside_what_is_allowed() -> None:
    samples = np.arange(4_000, dtype=np.int64)
    view = SoundViewConfig(crop=0.3, gain_db=6, noise=0.2, time_share=0.2, frequency_share=0.5)
    plan = _plan(view, samples=samples)
    assert (plan.starts.min(), plan.starts.max()) == (0, 300)
    decibels = 20 * plan.gain.flatten().log10()
    assert (decibels.abs() <= 6).all()
    assert decibels.std() == pytest.approx(12 / np.sqrt(12), rel=0.05)
    assert (plan.noise.min() >= 0, plan.noise.max() <= 0.2) == (True, True)
    for masks, largest in ((plan.time_masks, 0.2), (plan.frequency_masks, 0.5)):
        lengths = masks[..., 1] - masks[..., 0]
        assert masks.min() >= 0
        assert masks.max() <= 1
        assert lengths.max() <= largest + 1e-6
        assert float(lengths.mean()) == pytest.approx(largest / 2, rel=0.05)


def test_a_whole_clip_is_what_evaluations_see() -> None:
    plan = _plan(WHOLE_CLIP)
    assert torch.equal(prepare_sound(_clips(), plan, "waveform", SOUND, 0.1), normalised(_clips(), 0.1))
    pictures = prepare_sound(_clips(), plan, "spectrogram", SOUND, 0.1)
    assert torch.equal(pictures, MelPicture(SOUND)(normalised(_clips(), 0.1)))


def test_waveforms_and_spectrograms_are_changed_as_drawn() -> None:
    view = SoundViewConfig(crop=0.0, gain_db=12, noise=0.0)
    plan, plain = _plan(view), normalised(_clips(), 0.1)
    changed = prepare_sound(_clips(), plan, "waveform", SOUND, 0.1)
    pictures = prepare_sound(_clips(), plan, "spectrogram", SOUND, 0.1)
    whole = MelPicture(SOUND)(plain * plan.gain)
    for sample in range(5):
        wanted, dark = (plain[sample, 0] * plan.gain[sample, 0]).numpy().copy(), whole[sample, 0].numpy().copy()
        for begin, end in plan.time_masks[sample].double().tolist():
            wanted[[begin <= (place + 0.5) / 1_000 < end for place in range(1_000)]] = 0
            dark[:, [begin <= (frame + 0.5) / dark.shape[1] < end for frame in range(dark.shape[1])]] = 0
        for begin, end in plan.frequency_masks[sample].double().tolist():
            dark[[begin <= (band + 0.5) / 20 < end for band in range(20)]] = 0
        np.testing.assert_array_equal(changed[sample, 0], wanted)
        np.testing.assert_array_equal(pictures[sample, 0], dark)
    assert (changed == 0).any()


def test_noise_is_white_of_the_drawn_deviation_and_one_s_own() -> None:
    view = replace(WHOLE_CLIP, noise=0.5)
    plan = _plan(view)
    noise = prepare_sound(torch.zeros(5, 1, 1_000, dtype=torch.int16), plan, "waveform", SOUND, 0.1)[:, 0]
    np.testing.assert_allclose(noise.std(1), plan.noise[:, 0, 0], rtol=0.1)
    alike = np.corrcoef(noise.numpy()) - np.eye(5)
    assert np.abs(alike).max() < 0.15
    shifted = (noise[:, 1:] * noise[:, :-1]).mean(1) / noise.var(1)
    assert shifted.abs().max() < 0.15


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rate_hz": 8_000}, "sound.clip_samples is 0, allowed: above 0 with rate_hz"),
        ({"window_samples": 101}, "sound.window_samples is 101, allowed: an even number"),
        ({"hop_samples": 4_000}, "sound.hop_samples is 4000, allowed: 1 to the window's 2048"),
        ({"bands": 513}, "sound.bands is 513, allowed: 4 to 512"),
        ({"rate_hz": 8_000, "clip_samples": 1_000}, "allowed: above half the window, 2048"),
    ],
)
def test_settings_that_make_no_spectrogram_are_refused(changes: dict[str, int], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        SoundConfig(**changes)
