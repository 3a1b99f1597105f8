"""What the linear protocol is told; how it trains: `evals/linear.py`."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

from vicreg.checked import require
from vicreg.view_config import ViewConfig


@dataclass(frozen=True)
class HeadSettings:
    """What tells one head from another."""

    lr: float
    weight_decay: float


@dataclass(frozen=True)
class Config:
    """Source: the official code and its README; where the paper (appendix C.2) differs, it is said."""

    epochs: int = 100
    """Passes over the training images (README; paper)."""
    batch: int = 256
    """Images per step over all ranks (code; paper)."""
    lr: float = 0.02
    """Learning rate, not scaled by the batch (README; paper; the code's own default, 0.3, is Barlow Twins')."""
    weight_decay: float = 1e-6
    """Weight decay of weights and bias (code; paper)."""
    grid_lrs: tuple[float, ...] = ()
    """More learning rates to try, each with every weight decay; the result that counts stays that of `lr`."""
    grid_weight_decays: tuple[float, ...] = ()
    """More weight decays to try, each with every learning rate."""
    momentum: float = 0.9
    """Momentum of SGD (code)."""
    nesterov: bool = False
    """Nesterov's momentum (code: no; VISSL: yes)."""
    milestones: tuple[int, ...] = ()
    """Epochs after which the rate falls to a tenth; without any it falls as a half cosine, epoch by epoch (code)."""
    batch_norm: bool = False
    """Batch norm between features and layer (code: no; VISSL's transfer benchmarks: yes)."""
    crop_scale: tuple[float, float] = (0.08, 1.0)
    """Share of the area that a training crop covers (code; the paper says 0.2 to 1)."""
    hflip_p: float = 0.5
    """Probability of a horizontal flip in training (code; paper); 0 where mirroring changes the class, as of digits."""
    seed: int = 0
    """Seed of the head's first weights, of order and crops."""

    def __post_init__(self) -> None:
        require(self.seed >= 0, "seed", self.seed, "0 or more")
        require(self.epochs >= 1, "epochs", self.epochs, "1 or more")
        require(self.batch >= 1, "batch", self.batch, "1 or more")
        require(self.lr > 0, "lr", self.lr, "above 0")
        require(self.weight_decay >= 0, "weight_decay", self.weight_decay, "0 or more")
        require(all(lr > 0 for lr in self.grid_lrs), "grid_lrs", self.grid_lrs, "numbers above 0")
        decays = self.grid_weight_decays
        require(all(decay >= 0 for decay in decays), "grid_weight_decays", decays, "numbers of 0 or more")
        require(0 <= self.momentum < 1, "momentum", self.momentum, "from 0 to below 1")
        ascending = sorted(set(self.milestones)) == list(self.milestones)
        inside = all(0 < epoch < self.epochs for epoch in self.milestones)
        allowed = f"ascending numbers of epochs from 1 to {self.epochs - 1}"
        require(ascending and inside, "milestones", self.milestones, allowed)
        self.view()

    def view(self) -> ViewConfig:
        """The augmentation of training images: crop and flip, no change of colour."""
        return crop_and_flip(self.crop_scale, self.hflip_p)

    def heads(self) -> list[HeadSettings]:
        """All heads, the published one first."""
        lrs = dict.fromkeys((self.lr, *self.grid_lrs))
        decays = dict.fromkeys((self.weight_decay, *self.grid_weight_decays))
        return [HeadSettings(lr, decay) for lr, decay in itertools.product(lrs, decays)]

    def rate(self, epoch: int) -> float:
        """Share of the learning rate in an epoch."""
        return epoch_rate(epoch, self.epochs, self.milestones)


def crop_and_flip(crop_scale: tuple[float, float], hflip_p: float) -> ViewConfig:
    """A view without changes of colour."""
    return ViewConfig(crop_scale=crop_scale, hflip_p=hflip_p, jitter_p=0.0, grayscale_p=0.0, blur_p=0.0, solarize_p=0.0)


def epoch_rate(epoch: int, epochs: int, milestones: tuple[int, ...] = ()) -> float:
    """Share of the learning rate: a tenth after each milestone, or the half cosine of the official code."""
    if milestones:
        return float(0.1 ** sum(epoch >= milestone for milestone in milestones))
    return 0.5 * (1 + math.cos(math.pi * epoch / epochs))
