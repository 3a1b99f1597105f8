"""PIRL (Misra and van der Maaten, CVPR 2020): an image and its shuffled patches find their entry of a memory bank."""

from __future__ import annotations

from dataclasses import dataclass, replace

from vicreg.config import MethodConfig, ModelConfig, OptimizerConfig, PretrainConfig, TrainConfig, ViewConfig, require
from vicreg.losses.settings import require_temperature
from vicreg.method_file import Published, Term
from vicreg.presets import CIFAR10, PATCH_SHARE, PLAIN_CROP
from vicreg.shared_terms import SPREAD


@dataclass(frozen=True)
class Config(MethodConfig):
    """PIRL: memory bank, its temperature, and the jigsaw (paper, section 3; PyContrast's PIRL for the patches)."""

    name: str = "pirl"
    temperature: float = 0.07
    """What similarities are divided by."""
    num_negatives: int = 32_000
    """Entries of other images that an image is told from, drawn anew in each step."""
    bank_momentum: float = 0.5
    """Share of itself that an entry keeps when its image was seen."""
    jigsaw_weight: float = 0.5
    """Weight of the patches' part of the loss; the image's has the rest of 1."""
    cells: int = 3
    """Parts of each side that patches are cut from."""
    patch_share: float = PATCH_SHARE
    """Side of a patch over that of its cell."""

    def __post_init__(self) -> None:
        require_temperature(self.temperature)
        require(self.num_negatives >= 1, "num_negatives", self.num_negatives, "1 or more")
        require(0 <= self.bank_momentum < 1, "bank_momentum", self.bank_momentum, "from 0 to below 1")
        require(0 <= self.jigsaw_weight <= 1, "jigsaw_weight", self.jigsaw_weight, "from 0 to 1")
        require(self.cells >= 1, "cells", self.cells, "1 or more")
        require(0 < self.patch_share <= 1, "patch_share", self.patch_share, "above 0, to 1")


TERMS = {
    "loss": Term("Loss", "Weighted mean of the image's and the patches' part.", "loss", 3),
    "image_loss": Term("Image", "Of telling the image's entry of the bank from others.", "image", 3),
    "jigsaw_loss": Term("Patches", "Of telling it by the shuffled patches.", "jigsaw", 3),
    **SPREAD,
}


_PATCHES = ViewConfig(
    image_size=255, crop_scale=(0.6, 1.0), jitter_p=1.0, saturation=0.4, hue=0.2, blur_p=0.0, hflip_p=0.5
)


def _imagenet() -> PretrainConfig:
    return PretrainConfig(
        Config(),
        views=(PLAIN_CROP, _PATCHES),
        model=ModelConfig(expander="128", expander_bias="all"),
        optimizer=OptimizerConfig(name="sgd", base_lr=0.03, weight_decay=1e-4, warmup_epochs=0.0),
        train=TrainConfig(epochs=800, global_batch=1024),
    )


def _cifar10() -> PretrainConfig:
    return replace(
        _imagenet(),
        method=Config(num_negatives=4096),
        data=CIFAR10,
        views=(replace(PLAIN_CROP, crop_scale=(0.2, 1.0)), replace(_PATCHES, image_size=48)),
        model=ModelConfig(encoder="resnet18", small_images=True, expander="128", expander_bias="all"),
        train=TrainConfig(epochs=200, global_batch=256),
    )


RECIPES = {
    "pirl": Published(
        source="paper, section 4, and VISSL: ResNet-50, batch 1,024, SGD, 0.12 to 0.00012, decay 1e-4, 800 epochs, "
        "32,000 negatives; patches as PyContrast cuts them (64 px in 3 x 3 cells of 85 px)",
        expected="linear top-1 63.6 % (paper; VICReg paper, Table 1); VISSL 64.29 %",
        pretrain=_imagenet(),
    ),
    "cifar10-pirl": Published(
        source="ours: the ImageNet recipe with ResNet-18 for small images, patches of 12 px, 4,096 negatives",
        expected="none is published",
        pretrain=_cifar10(),
    ),
}
