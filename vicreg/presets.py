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
    SoundConfig,
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

ESC50 = DataConfig(train="data/esc50/train.beton", val="data/esc50/val.beton", mean=(0.0,), std=(0.1,))
"""Environmental sounds: fold 5 of 5 held out. The deviation is that of the training data, where there are any."""
SPOKEN_DIGITS = replace(ESC50, train="data/spoken-digits/train.beton", val="data/spoken-digits/val.beton")
"""Digits spoken by six people (the Free Spoken Digit Dataset): recordings 0 to 4 of each speaker and digit held out."""
TONES = replace(ESC50, train="data/tones/train.beton", val="data/tones/val.beton")
"""Melodies of three notes that this project makes by itself (dataprep/write_ffcv.py tones)."""


def esc50_pretrain(method: MethodConfig, **model: Any) -> PretrainConfig:
    """The run on ESC-50 (VICReg, appendix D.2): AdamW with a rate of 5e-4, 100 epochs; the rest is this project's.

    Not published: batch, expander, weight decay, warm-up, views, spectrogram, and which branch is measured. Ours is the
    spectrogram's, as the published supervised network is one of spectrograms.
    """
    return PretrainConfig(
        method,
        data=ESC50,
        model=ModelConfig(
            encoder="resnet18",
            encoder_b="resnet18-wave",
            channels=1,
            expander="2048-2048-2048",
            sound=SoundConfig(rate_hz=44_100, clip_samples=220_500),
            **model,
        ),
        optimizer=OptimizerConfig(name="adamw", base_lr=5e-4, weight_decay=1e-4, warmup_epochs=5.0),
        train=TrainConfig(epochs=100, global_batch=128),
    )


def small_sound_pretrain(method: MethodConfig, data: DataConfig, epochs: int, **model: Any) -> PretrainConfig:
    """Narrow networks for seconds of sound at 8 kHz, on CPUs."""
    return PretrainConfig(
        method,
        data=data,
        model=ModelConfig(
            encoder="resnet10-narrow",
            encoder_b="resnet10-narrow-wave",
            channels=1,
            expander="512-512-512",
            sound=SoundConfig(8_000, 8_000, window_samples=256, hop_samples=128, bands=40),
            **model,
        ),
        optimizer=OptimizerConfig(name="adamw", base_lr=2e-3, weight_decay=1e-4, warmup_epochs=4.0),
        train=TrainConfig(epochs=epochs, global_batch=128),
    )


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


CAPTION_VIEW = replace(PLAIN_CROP, crop_scale=(0.6, 1.0))
"""Crop and flip: what an image beside a caption is changed by; the caption must still be true."""


def coco_captions(method: MethodConfig, **model: Any) -> PretrainConfig:
    """COCO captions as VSE++ learns them (its code): ResNet-152 and GRU, batch 128, Adam 2e-4, 30 epochs.

    model: fields in which a method's run differs.
    """
    networks = ModelConfig(encoder="resnet152", encoder_b="gru-300-1024", expander="1024")
    return PretrainConfig(
        method,
        data=DataConfig(train="data/coco-captions/train.beton", val="data/coco-captions/test.beton"),
        views=(CAPTION_VIEW,),
        model=replace(networks, **model),
        optimizer=OptimizerConfig(name="adamw", base_lr=2e-4, weight_decay=0.0, warmup_epochs=0.0, final_lr_ratio=0.01),
        train=TrainConfig(epochs=30, global_batch=128),
    )


def digit_captions(method: MethodConfig, **model: Any) -> PretrainConfig:
    """Rendered digits with their names as captions: seconds on a CPU."""
    networks = ModelConfig(
        encoder="resnet10-narrow", small_images=True, encoder_b="gru-32-64", expander="128-128", min_word_count=1
    )
    view = replace(PLAIN_CROP, crop_scale=(0.7, 1.0), hflip_p=0.0)
    return PretrainConfig(
        method,
        data=replace(DIGITS, train="data/digit-captions/train.beton", val="data/digit-captions/val.beton"),
        views=(view,),
        model=replace(networks, **model),
        optimizer=OptimizerConfig(name="adamw", base_lr=2e-3, weight_decay=1e-4, warmup_epochs=1.0),
        train=TrainConfig(epochs=20, global_batch=64, log_every_steps=5),
    )
