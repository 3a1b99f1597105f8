"""What recipes of several methods share: data sets (place, size, normalisation), settings of others' suites."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from vicreg.config import (
    DataConfig,
    MethodConfig,
    ModelConfig,
    OnlineConfig,
    OptimizerConfig,
    PretrainConfig,
    TrainConfig,
    ViewConfig,
)

CIFAR10 = DataConfig(
    train="data/cifar10/train.beton",
    val="data/cifar10/val.beton",
    loader="array",
    image_size=32,
    eval_resize=32,
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2470, 0.2435, 0.2616),
)

CIFAR100 = replace(
    CIFAR10,
    train="data/cifar100/train.beton",
    val="data/cifar100/val.beton",
    mean=(0.5071, 0.4865, 0.4409),
    std=(0.2673, 0.2564, 0.2762),
)

NARROW = "resnet10-narrow"
"""An encoder of this project for small images on CPUs (`vicreg/model.py`)."""
PATCH_SHARE = 64 / 85
"""Side of a jigsaw's patch over that of its cell (PyContrast: 64 px of 85)."""
PLAIN_CROP = ViewConfig(jitter_p=0.0, grayscale_p=0.0, blur_p=0.0)
"""Crop and flip, colours as they are: what supervised networks of ImageNet learn from."""

DIGITS = DataConfig(
    train="data/digits/train.beton",
    val="data/digits/val.beton",
    image_size=32,
    eval_resize=32,
    mean=(0.305, 0.305, 0.305),
    std=(0.376, 0.376, 0.376),
)
"""scikit-learn's handwritten digits: real data without a download."""


def solo_learn_cifar(
    method: MethodConfig,
    views: tuple[ViewConfig, ...],
    data: DataConfig = CIFAR10,
    *,
    optimizer: dict[str, Any] | None = None,
    **model: Any,
) -> PretrainConfig:
    """What solo-learn's CIFAR runs share (scripts/pretrain/cifar/*.yaml), those of VICReg and Barlow Twins at first.

    optimizer, model: fields in which a method's run differs.
    """
    lars = OptimizerConfig(
        base_lr=0.3,
        weight_decay=1e-4,
        trust_coefficient=0.02,
        clip_lr=True,
        warmup_start_lr=3e-5,
        final_lr_ratio=0.0,
    )
    small = ModelConfig(
        encoder="resnet18", small_images=True, stem_padding=2, expander="2048-2048-2048", expander_bias="all"
    )
    return PretrainConfig(
        method,
        data=data,
        views=views,
        model=replace(small, **model),
        optimizer=replace(lars, **(optimizer or {})),
        train=TrainConfig(epochs=1000, global_batch=256),
        online=OnlineConfig(every_epochs=10),
    )


SGD: dict[str, Any] = {"name": "sgd", "trust_coefficient": OptimizerConfig.trust_coefficient, "clip_lr": False}
"""For solo-learn's runs that have no LARS."""


def moco_v2_view(**changes: Any) -> ViewConfig:
    """The view of MoCo v2 and SimSiam (their `main_moco.py`, `main_simsiam.py`), both views alike."""
    view = ViewConfig(crop_scale=(0.2, 1.0), saturation=0.4, blur_p=0.5)
    return replace(view, **changes)


def simclr_view(**changes: Any) -> ViewConfig:
    """SimCLR's view (paper, appendix A; color_jitter_strength 1), both views alike."""
    view = ViewConfig(brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2, blur_p=0.5)
    return replace(view, **changes)
