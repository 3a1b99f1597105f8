"""InfoMin Aug (Tian et al., NeurIPS 2020): MoCo v2 with stronger views, and a jigsaw that looks for the same key."""

from __future__ import annotations

from dataclasses import dataclass, replace

from vicreg.config import ModelConfig, OptimizerConfig, PretrainConfig, TrainConfig, require
from vicreg.method_file import Published, Term
from vicreg.methods import moco_v2
from vicreg.presets import PLAIN_CROP, SGD, simclr_view, solo_learn_cifar


@dataclass(frozen=True)
class Config(moco_v2.Config):
    """InfoMin: MoCo's settings, temperature and weight of the jigsaw (PyContrast, `options/base_options.py`)."""

    name: str = "infomin"
    temperature: float = 0.15
    jigsaw_weight: float = 0.5
    """Of the loss of the jigsaw; the image's is the rest of 1."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.jigsaw_weight <= 1, "jigsaw_weight", self.jigsaw_weight, "from 0 to 1")
        require(not self.both_directions, "both_directions", True, "False for infomin")


TERMS = moco_v2.TERMS | {
    "jigsaw_loss": Term("Loss of the jigsaw", "Cross-entropy of finding the image's key from its shuffled patches.")
}


def _imagenet(epochs: int) -> PretrainConfig:
    view = simclr_view(crop_scale=(0.2, 1.0), rand_augment=2)
    jigsaw = replace(PLAIN_CROP, image_size=255, crop_scale=(0.6, 1.0))
    return PretrainConfig(
        Config(),
        views=(view, view, jigsaw),
        model=ModelConfig(expander="2048-128", expander_bias="all", expander_norm="none"),
        optimizer=OptimizerConfig(name="sgd", base_lr=0.03, weight_decay=1e-4, warmup_epochs=0.0, final_lr_ratio=0.0),
        train=TrainConfig(epochs=epochs, global_batch=256),
    )


def _cifar10() -> PretrainConfig:
    view = simclr_view(crop_scale=(0.2, 1.0), blur_p=0.0, rand_augment=2)
    jigsaw = replace(PLAIN_CROP, image_size=48, crop_scale=(0.6, 1.0))
    return solo_learn_cifar(
        Config(momentum=0.99, queue_length=32768),
        (view, view, jigsaw),
        optimizer=SGD | {"base_lr": 0.3},
        expander="2048-256",
        expander_norm="none",
    )


_SOURCE = (
    "InfoMin Aug, paper and PyContrast (its option --aug D): MoCo v2 with RandAugment in its views and a jigsaw, "
    "temperature 0.15, {} epochs"
)


RECIPES = {
    "infomin": Published(
        source=_SOURCE.format(800),
        expected="linear top-1 73.0 %, top-5 91.1 % (its paper; VICReg's Table 1)",
        pretrain=_imagenet(800),
    ),
    "infomin-200ep": Published(
        source=_SOURCE.format(200),
        expected="linear top-1 70.1 % (PyContrast's README)",
        pretrain=_imagenet(200),
    ),
    "cifar10-infomin": Published(
        source="ours: the setting of cifar10-moco-v2-plus in one direction, with this method's views and jigsaw of "
        "patches of 12 px",
        expected="none is published",
        pretrain=_cifar10(),
    ),
}
