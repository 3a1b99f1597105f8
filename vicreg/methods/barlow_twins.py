"""Barlow Twins (Zbontar, Jing, Misra, LeCun, Deny, ICML 2021): the two branches' cross-correlation towards identity."""

from __future__ import annotations

from dataclasses import dataclass, replace

from vicreg.config import (
    DataConfig,
    MethodConfig,
    ModelConfig,
    OptimizerConfig,
    PretrainConfig,
    TrainConfig,
    ViewConfig,
)
from vicreg.losses.settings import BarlowTwinsLossConfig, SpreadConfig
from vicreg.method_file import Published, Term
from vicreg.presets import CIFAR10, CIFAR100, coco_captions, digit_captions, esc50_pretrain, solo_learn_cifar
from vicreg.shared_terms import REGULARISED


@dataclass(frozen=True)
class Config(SpreadConfig, BarlowTwinsLossConfig, MethodConfig):
    """Barlow Twins: weights and form of the loss, rate of biases (official `main.py`), VICReg's terms if weighted.

    Of the variance term beside this loss no number is published.
    """

    name: str = "barlow_twins"
    bias_rate_factor: float = 0.0048 / 0.2
    """Learning rate of biases and batch norm over that of weights (official code: 0.0048 and 0.2)."""


TERMS = {
    "loss": Term("Loss", "Weighted sum of the two terms over the global batch.", "loss", 4, spans_decades=True),
    "on_diagonal": Term(
        "On the diagonal",
        "How far the correlations of the views' equal dimensions fall short of 1.",
        "on",
        2,
        spans_decades=True,
    ),
    "off_diagonal": Term(
        "Off the diagonal",
        "Squared correlations between different dimensions; 0 when none repeats another.",
        "off",
        1,
        spans_decades=True,
    ),
    "embedding_std": Term(
        "Embedding's standard deviation",
        "Mean over dimensions, before they are standardised; near 0 is collapse.",
        collapsed_below=0.003,
    ),
    **REGULARISED,
}


def _imagenet(epochs: int) -> PretrainConfig:
    return PretrainConfig(
        Config(),
        model=ModelConfig(expander_bias="none"),
        optimizer=OptimizerConfig(base_lr=0.2, weight_decay=1e-6),
        train=TrainConfig(epochs=epochs),
    )


def _cifar(data: DataConfig) -> PretrainConfig:
    view = ViewConfig(crop_scale=(0.2, 1.0), blur_p=0.0)
    solarised = replace(view, solarize_p=0.2)
    settings = Config(redundancy_weight=0.005, loss_scale=0.1, bias_rate_factor=1.0)
    return solo_learn_cifar(settings, (view, solarised), data)


RECIPES = {
    "barlow-twins": Published(
        source="Barlow Twins, paper and official code: ResNet-50, expander of three layers without biases, batch 2048, "
        "LARS, rates 0.2 of weights and 0.0048 of biases and batch norm, 1000 epochs",
        expected="linear top-1 73.2 % (its paper, Table 1; the released encoder has 73.5 %)",
        pretrain=_imagenet(1000),
    ),
    "coco-captions-barlow-twins": Published(
        source="VICReg paper, Table 3: COCO captions in the setting of VSE++; expander and batch are not published: "
        "ours are 2048-2048 without biases, 128. Published runs begin with supervised weights: "
        "--model.weights torchvision",
        expected="COCO 5K: image to text 42.9 / 74.0 / 83.5 %, text to image 31.4 / 60.4 / 75.1 % at 1, 5, 10 "
        "(Table 3, with its columns exchanged)",
        pretrain=coco_captions(Config(bias_rate_factor=1.0), expander="2048-2048", expander_bias="none"),
    ),
    "digit-captions-barlow-twins": Published(
        source="ours: rendered digits and their names",
        expected="none is published",
        pretrain=digit_captions(Config(bias_rate_factor=1.0)),
    ),
    "barlow-twins-300ep": Published(
        source="Barlow Twins, official code: as the 1000-epoch run with 300 epochs",
        expected="linear top-1 71.4 % (official code)",
        pretrain=_imagenet(300),
    ),
    "esc50-barlow-twins": Published(
        source="VICReg's paper, appendix D.2, where it is Barlow Twins; what is not published is ours, as in esc50",
        expected="linear top-1 75.4 % (VICReg's paper, Table 6)",
        pretrain=esc50_pretrain(Config(bias_rate_factor=1.0), expander_bias="none"),
    ),
    "cifar10-barlow-twins": Published(
        source="solo-learn, scripts/pretrain/cifar/barlow.yaml: ResNet-18 for small images, batch 256, 1000 epochs, "
        "loss x 0.1; residual branches begin at zero here, not there",
        expected="92.10 % top-1 of an online linear head (solo-learn's README)",
        pretrain=_cifar(CIFAR10),
    ),
    "cifar100-barlow-twins": Published(
        source="solo-learn, scripts/pretrain/cifar/barlow.yaml: as on CIFAR-10",
        expected="70.90 % top-1 of an online linear head (solo-learn's README)",
        pretrain=_cifar(CIFAR100),
    ),
}
