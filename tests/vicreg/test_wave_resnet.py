"""Encoders of sound: their widths, what they take, and that both ways to a spectrogram give the same features."""

from __future__ import annotations

import pytest
import torch

from vicreg.config import ModelConfig, SoundConfig
from vicreg.model import encoder_by_config, num_features
from vicreg.sound_config import takes
from vicreg.views.mel import MelPicture

SOUND = SoundConfig(8_000, 4_000, window_samples=256, hop_samples=64, bands=32)


def _encoder(name: str) -> torch.nn.Module:
    torch.manual_seed(0)
    return encoder_by_config(ModelConfig(encoder=name, channels=1, sound=SOUND)).eval()


@pytest.mark.parametrize(
    ("name", "width", "kind"),
    [
        ("resnet18-wave", 384, "waveform"),
        ("resnet10-narrow-wave", 128, "waveform"),
        ("resnet18", 512, "spectrogram"),
        ("resnet10-narrow", 128, "spectrogram"),
    ],
)
def test_widths_are_the_published_ones(name: str, width: int, kind: str) -> None:
    encoder, sound = _encoder(name), torch.randn(2, 1, 4_000)
    assert (num_features(encoder), takes(name)) == (width, kind)
    with torch.no_grad():
        features = encoder(sound)
        assert features.shape == (2, width)
        if kind == "spectrogram":
            assert torch.equal(encoder(MelPicture(SOUND)(sound)), features)


def test_the_wave_network_has_the_blocks_of_the_image_network() -> None:
    network = _encoder("resnet18-wave")
    layers = [module for module in network.modules() if isinstance(module, torch.nn.Conv1d)]
    assert len([layer for layer in layers if layer.kernel_size[0] > 1]) == 17  # and the classifier makes 18
    strides = [layer.stride[0] for layer in layers if layer.kernel_size[0] > 1]
    assert torch.tensor(strides).prod() == 4**4  # and 4 of the pooling, as 2 x 2 five times
    shut = [module for module in network.modules() if isinstance(module, torch.nn.BatchNorm1d)]
    assert sum(not module.weight.any() for module in shut) == 8


def test_sound_has_one_channel() -> None:
    with pytest.raises(ValueError, match="channels is 0, allowed: 1 for sound"):
        ModelConfig(sound=SOUND)
