"""A supervised network: what the tables of self-supervised methods are measured against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from vicreg.config import (
    MethodConfig,
    ModelConfig,
    OnlineConfig,
    OptimizerConfig,
    PretrainConfig,
    TrainConfig,
    ViewConfig,
    require,
)
from vicreg.method_file import Published, Term
from vicreg.presets import CIFAR10, PLAIN_CROP


@dataclass(frozen=True)
class Config(MethodConfig):
    """Supervised learning."""

    name: str = "supervised"
    label_smoothing: float = 0.0
    """Share of the target that goes to all classes alike (torchvision's reference for ResNet-50, first weights: 0)."""

    def __post_init__(self) -> None:
        require(0 <= self.label_smoothing < 1, "label_smoothing", self.label_smoothing, "from 0 to below 1")


TERMS = {
    "loss": Term("Loss", "Cross-entropy over the global batch.", "loss", 3),
    "train_top1": Term("Right in training", "Share of training images, as augmented, that are told right.", "right", 3),
}


def _imagenet() -> PretrainConfig:
    return PretrainConfig(
        Config(),
        views=(PLAIN_CROP,),
        optimizer=OptimizerConfig(name="sgd", base_lr=0.1, weight_decay=1e-4, warmup_epochs=5.0, final_lr_ratio=0.0),
        train=TrainConfig(epochs=90, global_batch=1024),
    )


def _cifar10(views: Sequence[ViewConfig]) -> PretrainConfig:
    return PretrainConfig(
        Config(),
        data=CIFAR10,
        views=tuple(views),
        model=ModelConfig(encoder="resnet18", small_images=True),
        optimizer=OptimizerConfig(name="sgd", base_lr=0.2, weight_decay=1e-4, warmup_epochs=10.0, final_lr_ratio=0.0),
        train=TrainConfig(epochs=200, global_batch=256),
        online=OnlineConfig(every_epochs=10),
    )


RECIPES = {
    "supervised": Published(
        source="torchvision's reference for ResNet-50 (SGD, 0.1 for 256 images, decay 1e-4 on everything, 90 epochs; "
        "crop and flip) with a cosine instead of its steps, and 5 epochs of warm-up for the larger batch",
        expected="top-1 76.5 % (VICReg paper, Table 1; torchvision's weights 76.1 %)",
        pretrain=_imagenet(),
    ),
    "cifar10-supervised": Published(
        source="SupContrast's main_ce.py (rate 0.8 for 1,024 images, decay 1e-4, SGD with a cosine) with a ResNet-18, "
        "200 epochs and the weaker half of its augmentation (crop and flip)",
        expected="none is published for this setting; SupContrast's ResNet-50 has 95.0 % with its own",
        pretrain=_cifar10([replace(PLAIN_CROP, crop_scale=(0.2, 1.0))]),
    ),
}
