"""CMC (Tian, Krishnan, Isola, ECCV 2020): lightness and colour of an image, each told from the other's memory bank."""

from __future__ import annotations

from dataclasses import dataclass, replace

from vicreg.config import MethodConfig, ModelConfig, OptimizerConfig, PretrainConfig, TrainConfig, require
from vicreg.losses.settings import require_temperature
from vicreg.method_file import Published, Term
from vicreg.presets import CIFAR10, PLAIN_CROP
from vicreg.shared_terms import SPREAD


@dataclass(frozen=True)
class Config(MethodConfig):
    """CMC: its two memory banks (official code, `train_CMC.py`)."""

    name: str = "cmc"
    temperature: float = 0.07
    """What similarities are divided by."""
    num_negatives: int = 16_384
    """Entries of other images that an image is told from, drawn anew in each step."""
    bank_momentum: float = 0.5
    """Share of itself that an entry keeps when its image was seen."""

    def __post_init__(self) -> None:
        require_temperature(self.temperature)
        require(self.num_negatives >= 1, "num_negatives", self.num_negatives, "1 or more")
        require(0 <= self.bank_momentum < 1, "bank_momentum", self.bank_momentum, "from 0 to below 1")


TERMS = {
    "loss": Term("Loss", "Sum of the two halves' parts.", "loss", 3),
    "lightness_loss": Term("Lightness", "Of telling the image's colour entry from others by its lightness.", "L", 3),
    "colour_loss": Term("Colour", "Of telling its lightness entry from others by its colour.", "ab", 3),
    **SPREAD,
}


def _imagenet() -> PretrainConfig:
    return PretrainConfig(
        Config(),
        views=(replace(PLAIN_CROP, crop_scale=(0.2, 1.0)),),
        model=ModelConfig(expander="128", expander_bias="all", colours="lab"),
        optimizer=OptimizerConfig(name="sgd", base_lr=0.06, weight_decay=1e-4, warmup_epochs=0.0, final_lr_ratio=0.0),
        train=TrainConfig(epochs=240, global_batch=128),
    )


def _cifar10() -> PretrainConfig:
    config = _imagenet()
    return replace(
        config,
        method=Config(num_negatives=4096),
        data=CIFAR10,
        model=replace(config.model, encoder="resnet18", small_images=True),
        optimizer=replace(config.optimizer, base_lr=0.03),
        train=TrainConfig(epochs=240, global_batch=256),
    )


RECIPES = {
    "cmc": Published(
        source="paper and official code: a ResNet-50 for L and one for a and b, batch 128, SGD 0.03, decay 1e-4, 240 "
        "epochs, 16,384 negatives; with a cosine in place of its steps",
        expected="linear top-1 66.2 % (paper; VICReg paper, Table 1)",
        pretrain=_imagenet(),
    ),
    "cifar10-cmc": Published(
        source="ours: the ImageNet recipe with ResNet-18 for small images, batch 256, 4,096 negatives",
        expected="none is published",
        pretrain=_cifar10(),
    ),
}
