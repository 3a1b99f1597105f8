"""What fine-tuning on few labels is told; how it trains: `evals/semisup.py`."""

from __future__ import annotations

from dataclasses import dataclass

from vicreg.checked import require
from vicreg.evals.settings.linear import crop_and_flip
from vicreg.view_config import ViewConfig


@dataclass(frozen=True)
class Config:
    """Source: the official README and the paper (appendix C.2), which agree; the defaults: 1 % of labels."""

    subset: str = "simclr-1percent"
    """Name of an index list beside the training beton (`write_ffcv.py subset`), SimCLR's as published; empty: drawn."""
    fraction: float = 0.01
    """Where `subset` is empty: share of the images of every class, at least one, drawn with `seed`."""
    epochs: int = 20
    """Passes over the labelled images."""
    batch: int = 256
    """Images per step over all ranks."""
    lr_encoder: float = 0.03
    """Learning rate of the encoder (10 % of labels: 0.01)."""
    lr_head: float = 0.08
    """Learning rate of the linear layer (10 % of labels: 0.1)."""
    momentum: float = 0.9
    """Momentum of SGD."""
    weight_decay: float = 0.0
    """Weight decay of everything."""
    crop_scale: tuple[float, float] = (0.08, 1.0)
    """Share of the area that a training crop covers (code; the paper says 0.2 to 1)."""
    hflip_p: float = 0.5
    """Probability of a horizontal flip in training; 0 where mirroring changes the class, as of digits."""
    seed: int = 0
    """Seed of the drawn labels, the head's first weights, order and crops."""

    def __post_init__(self) -> None:
        require(self.seed >= 0, "seed", self.seed, "0 or more")
        require(0 < self.fraction <= 1, "fraction", self.fraction, "above 0, up to 1")
        require(self.epochs >= 1, "epochs", self.epochs, "1 or more")
        require(self.batch >= 2, "batch", self.batch, "2 or more (batch norm needs two)")
        require(self.lr_encoder >= 0, "lr_encoder", self.lr_encoder, "0 or more")
        require(self.lr_head > 0, "lr_head", self.lr_head, "above 0")
        require(0 <= self.momentum < 1, "momentum", self.momentum, "from 0 to below 1")
        require(self.weight_decay >= 0, "weight_decay", self.weight_decay, "0 or more")
        self.view()

    def view(self) -> ViewConfig:
        """The augmentation of training images: crop and flip, no change of colour."""
        return crop_and_flip(self.crop_scale, self.hflip_p)
