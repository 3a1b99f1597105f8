"""What linear segmentation is told; how it trains: `evals/linear_segmentation.py`."""

from __future__ import annotations

from dataclasses import dataclass

from vicreg.checked import require


@dataclass(frozen=True)
class Config:
    """Source: DINOv2's linear configurations for ADE20k and VOC2012, which are mmsegmentation's 40k schedule."""

    steps: int = 40_000
    """Steps of training."""
    batch: int = 16
    """Images per step over all ranks."""
    lr: float = 1e-3
    """Learning rate of AdamW; it falls linearly to 0."""
    warmup_steps: int = 1_500
    """Steps in which the rate rises from a millionth of it."""
    weight_decay: float = 1e-4
    """Weight decay of AdamW."""
    crop: int = 512
    """Side of training crops in pixels, and shorter side of images when measured."""
    scales: tuple[float, float] = (0.5, 2.0)
    """By which images, their shorter side brought to `crop`, are scaled before they are cropped."""
    hflip_p: float = 0.5
    """Probability of a horizontal flip in training."""
    seed: int = 0
    """Seed of the layer's first weights, of order and crops."""

    def __post_init__(self) -> None:
        require(self.seed >= 0, "seed", self.seed, "0 or more")
        require(self.steps >= 1, "steps", self.steps, "1 or more")
        require(self.batch >= 1, "batch", self.batch, "1 or more")
        require(self.lr > 0, "lr", self.lr, "above 0")
        require(self.warmup_steps >= 0, "warmup_steps", self.warmup_steps, "0 or more")
        require(self.weight_decay >= 0, "weight_decay", self.weight_decay, "0 or more")
        require(self.crop >= 32, "crop", self.crop, "32 or more pixels")
        require(0 < self.scales[0] <= self.scales[1], "scales", self.scales, "smallest and largest, above 0")
        require(0 <= self.hflip_p <= 1, "hflip_p", self.hflip_p, "0 to 1")

    def rate(self, step: int) -> float:
        """Share of the learning rate at a step."""
        warm = 1e-6 + (1 - 1e-6) * step / self.warmup_steps if step < self.warmup_steps else 1.0
        return warm * (1 - step / self.steps)
