"""SimCLR (Chen, Kornblith, Norouzi, Hinton, ICML 2020): each view finds the other one among all of the global batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vicreg.config import (
    DataConfig,
    MethodConfig,
    ModelConfig,
    OptimizerConfig,
    PretrainConfig,
    TrainConfig,
)
from vicreg.losses.settings import require_temperature
from vicreg.method_file import Published, Term
from vicreg.presets import CIFAR10, CIFAR100, simclr_view, solo_learn_cifar
from vicreg.shared_terms import SPREAD


@dataclass(frozen=True)
class Config(MethodConfig):
    """SimCLR: temperature and sum of the loss (official code, `objective.py`)."""

    name: str = "simclr"
    temperature: float = 0.1
    """What similarities are divided by."""
    directions: Literal["sum", "mean"] = "sum"
    """Over the two ways of looking for the other view: sum as in the official code, mean as in its PyTorch versions."""

    def __post_init__(self) -> None:
        require_temperature(self.temperature)


TERMS = {
    "loss": Term("Loss", "Cross-entropy of finding the other view among the global batch.", "loss", 3),
    "positive_similarity": Term(
        "Similarity of the views", "Mean cosine between the embeddings of two views of an image.", "sim", 3
    ),
    **SPREAD,
}


def _imagenet(epochs: int) -> PretrainConfig:
    return PretrainConfig(
        Config(),
        views=(simclr_view(), simclr_view()),
        model=ModelConfig(expander="2048-128", expander_bias="none", expander_norm="all"),
        optimizer=OptimizerConfig(base_lr=0.3, weight_decay=1e-6, final_lr_ratio=0.0),
        train=TrainConfig(epochs=epochs, global_batch=4096),
    )


def _cifar(data: DataConfig) -> PretrainConfig:
    return solo_learn_cifar(
        Config(temperature=0.2, directions="mean"),
        (simclr_view(), simclr_view()),
        data,
        optimizer={"base_lr": 0.4},
        expander="2048-256",
        expander_norm="none",
    )


_SOLO_LEARN = (
    "solo-learn, scripts/pretrain/cifar/simclr.yaml: ResNet-18 for small images, batch 256, 1000 epochs; residual "
    "branches begin at zero here, not there"
)


RECIPES = {
    "simclr": Published(
        source="SimCLR, paper and official code (version 1): ResNet-50, expander 2048-128, batch 4096, LARS, base rate "
        "0.3, 1000 epochs",
        expected="linear top-1 69.3 %, top-5 89.0 % (its paper; VICReg's Table 1)",
        pretrain=_imagenet(1000),
    ),
    "simclr-100ep": Published(
        source="SimCLR, paper, appendix B.9, batch 4096, 100 epochs; VICReg's paper, Table 5, has the same number",
        expected="linear top-1 64.5 % (64.4 % in VICReg's Table 5, shared weights)",
        pretrain=_imagenet(100),
    ),
    "cifar10-simclr": Published(
        source=_SOLO_LEARN,
        expected="90.74 % top-1 of an online linear head (solo-learn's README)",
        pretrain=_cifar(CIFAR10),
    ),
    "cifar100-simclr": Published(
        source=_SOLO_LEARN,
        expected="65.78 % top-1 of an online linear head (solo-learn's README)",
        pretrain=_cifar(CIFAR100),
    ),
}
