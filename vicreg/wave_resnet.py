"""Encoders of sound: one-dimensional ResNets on the waveform, and any network of pictures on its spectrogram.

The paper (appendix D.2) has a one-dimensional ResNet-18 with features of 384 and no more is published. Ours takes the
image network's blocks with kernels and strides of the same area: 49 for 7 x 7, 9 for 3 x 3, 4 for 2 x 2.
"""

from __future__ import annotations

from torch import Tensor, nn

from vicreg.sound_config import WAVE_ENCODERS as WAVE_ENCODERS
from vicreg.sound_config import SoundConfig, WaveResNetSize
from vicreg.views.mel import MelPicture

STEM, KERNEL, STRIDE = 49, 9, 4


class WaveResNet(nn.Module):
    """Waveforms (B, 1, L) to features (B, 8 x width)."""

    def __init__(self, size: WaveResNetSize) -> None:
        super().__init__()
        width = size.width
        self.stem = nn.Sequential(
            nn.Conv1d(1, width, STEM, STRIDE, STEM // 2, bias=False),
            nn.BatchNorm1d(width),
            nn.ReLU(inplace=True),
            nn.MaxPool1d(KERNEL, STRIDE, KERNEL // 2),
        )
        stages: list[nn.Module] = []
        before = width
        for stage in range(4):
            for block in range(size.blocks):
                stages.append(_Block(before, width << stage, STRIDE if stage and not block else 1))
                before = width << stage
        self.stages = nn.Sequential(*stages)
        self.num_features = before
        for module in self.modules():
            if isinstance(module, nn.Conv1d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if isinstance(module, _Block) and size.zero_residuals:
                norm = module.second[-1]
                assert isinstance(norm, nn.BatchNorm1d)
                nn.init.zeros_(norm.weight)

    def forward(self, waveforms: Tensor) -> Tensor:
        """See the class."""
        features: Tensor = self.stages(self.stem(waveforms)).mean(2)
        return features


class _Block(nn.Module):
    """Two convolutions beside a shortcut."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.first = _convolution(before, after, KERNEL, stride)
        self.second = _convolution(after, after, KERNEL, 1)
        self.relu = nn.ReLU(inplace=True)
        changes = before != after or stride > 1
        self.shortcut = _convolution(before, after, 1, stride) if changes else nn.Identity()

    def forward(self, values: Tensor) -> Tensor:
        inner = self.second(self.relu(self.first(values)))
        result: Tensor = self.relu(inner + self.shortcut(values))
        return result


def _convolution(before: int, after: int, kernel: int, stride: int) -> nn.Sequential:
    convolution = nn.Conv1d(before, after, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm1d(after))


class OnSpectrogram(nn.Module):
    """A network of pictures of one channel that takes sound.

    Training gives it spectrograms (B, 1, bands, frames), in which stretches may be masked; whoever measures gives it
    waveforms (B, 1, L), of which it makes the same.
    """

    def __init__(self, network: nn.Module, config: SoundConfig, num_features: int) -> None:
        super().__init__()
        self.network, self.num_features = network, num_features
        self.picture = MelPicture(config)

    def forward(self, sound: Tensor) -> Tensor:
        """See the class; features (B, num_features)."""
        features: Tensor = self.network(self.picture(sound) if sound.ndim == 3 else sound)
        return features
