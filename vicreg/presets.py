"""What recipes of several methods share: data sets (place, size, normalisation), settings of others' suites."""

from __future__ import annotations

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

PLAIN_CROP = ViewConfig(jitter_p=0.0, grayscale_p=0.0, blur_p=0.0)
"""Crop and flip, colours as they are: what supervised networks of ImageNet learn from."""
MOCO_VIEW = ViewConfig(crop_scale=(0.2, 1.0), saturation=0.4, blur_p=0.5)
"""Of MoCo v2 (jitter 0.4, 0.4, 0.4, 0.1)."""
SIMCLR_VIEW = ViewConfig(brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2, blur_p=0.5)
"""Of SimCLR, which SwAV and SupCon take over."""

DIGITS = DataConfig(
    train="data/digits/train.beton",
    val="data/digits/val.beton",
    image_size=32,
    eval_resize=32,
    mean=(0.305, 0.305, 0.305),
    std=(0.376, 0.376, 0.376),
)
"""scikit-learn's handwritten digits: real data without a download."""


def solo_learn_cifar10(method: MethodConfig, views: tuple[ViewConfig, ...]) -> PretrainConfig:
    """What solo-learn's CIFAR-10 runs of VICReg and Barlow Twins share (scripts/pretrain/cifar/*.yaml)."""
    return PretrainConfig(
        method,
        data=CIFAR10,
        views=views,
        model=ModelConfig(
            encoder="resnet18", small_images=True, stem_padding=2, expander="2048-2048-2048", expander_bias="all"
        ),
        optimizer=OptimizerConfig(
            base_lr=0.3,
            weight_decay=1e-4,
            trust_coefficient=0.02,
            clip_lr=True,
            warmup_start_lr=3e-5,
            final_lr_ratio=0.0,
        ),
        train=TrainConfig(epochs=1000, global_batch=256),
        online=OnlineConfig(every_epochs=10, lr=0.1),
    )
