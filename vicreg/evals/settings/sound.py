"""What the evaluation of sound is told; how it measures: `evals/sound.py`."""

from __future__ import annotations

from dataclasses import dataclass

from vicreg.checked import require
from vicreg.sound_config import SoundViewConfig


@dataclass(frozen=True)
class Config:
    """Source: the paper (appendix D.2) says linear and no more; all settings are this project's."""

    inverse_regularisation: float = 0.1
    """scikit-learn's C of the linear classifier: the weight of the log-loss against half the squared norm."""
    max_iterations: int = 200
    """Iterations of Newton's method after which it gives up, and says so."""
    tuned_epochs: int = 0
    """Passes over the clips in which the whole encoder is tuned with a linear layer; 0: it is not."""
    batch: int = 64
    """Clips per step over all ranks, where it is tuned."""
    lr_encoder: float = 0.02
    """Learning rate of the encoder."""
    lr_head: float = 0.2
    """Learning rate of the linear layer."""
    momentum: float = 0.9
    """Momentum of SGD."""
    weight_decay: float = 1e-4
    """Weight decay of everything."""
    crop: float = 0.1
    """Share of a clip that is cut off at a place drawn anew, where the encoder is tuned."""
    seed: int = 0
    """Seed of the layer's first weights, order and crops."""

    def __post_init__(self) -> None:
        require(self.seed >= 0, "seed", self.seed, "0 or more")
        require(self.inverse_regularisation > 0, "inverse_regularisation", self.inverse_regularisation, "above 0")
        require(self.max_iterations >= 1, "max_iterations", self.max_iterations, "1 or more")
        require(self.tuned_epochs >= 0, "tuned_epochs", self.tuned_epochs, "0 (not tuned) or more")
        require(self.batch >= 2, "batch", self.batch, "2 or more (batch norm needs two)")
        require(self.lr_encoder >= 0, "lr_encoder", self.lr_encoder, "0 or more")
        require(self.lr_head > 0, "lr_head", self.lr_head, "above 0")
        require(0 <= self.momentum < 1, "momentum", self.momentum, "from 0 to below 1")
        require(self.weight_decay >= 0, "weight_decay", self.weight_decay, "0 or more")
        SoundViewConfig(crop=self.crop)
