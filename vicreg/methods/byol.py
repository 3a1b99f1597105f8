"""BYOL (Grill et al., NeurIPS 2020): a student predicts what a slow teacher says of the other view."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vicreg.config import (
    DataConfig,
    MethodConfig,
    ModelConfig,
    OptimizerConfig,
    PretrainConfig,
    TrainConfig,
    ViewConfig,
    require,
)
from vicreg.losses.settings import SpreadConfig
from vicreg.method_file import Published, Term
from vicreg.presets import CIFAR10, CIFAR100, solo_learn_cifar
from vicreg.shared_terms import REGULARISED, SPREAD


@dataclass(frozen=True)
class Config(SpreadConfig, MethodConfig):
    """BYOL: predictor and teacher (paper, section 3.3 and appendix J; official code), VICReg's terms if weighted."""

    name: str = "byol"
    predictor_width: int = 4096
    """Of the predictor's hidden layer."""
    momentum: float = 0.996
    """Share of itself that the teacher keeps in the first step."""
    final_momentum: float = 1.0
    """In the last step; between them half a cosine."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.predictor_width >= 1, "predictor_width", self.predictor_width, "1 or more")
        for name in ("momentum", "final_momentum"):
            require(0 <= getattr(self, name) <= 1, name, getattr(self, name), "from 0 to 1")


TERMS = {
    "loss": Term(
        "Loss", "Squared distance between prediction and teacher's embedding at length 1, both directions.", "loss"
    ),
    **SPREAD,
    **REGULARISED,
}


def _imagenet(epochs: int, base_lr: float, **settings: Any) -> PretrainConfig:
    decay = 1.5e-6 if epochs == 1000 else 1e-6
    return PretrainConfig(
        Config(**settings),
        model=ModelConfig(expander="4096-256"),
        optimizer=OptimizerConfig(base_lr=base_lr, weight_decay=decay, final_lr_ratio=0.0),
        train=TrainConfig(epochs=epochs, global_batch=4096),
    )


def _cifar(data: DataConfig) -> PretrainConfig:
    view = ViewConfig(blur_p=0.0)
    return solo_learn_cifar(
        Config(momentum=0.99),
        (view, ViewConfig(blur_p=0.0, solarize_p=0.2)),
        data,
        optimizer={"base_lr": 1.0, "weight_decay": 1e-5},
        expander="4096-256",
    )


_100 = {"momentum": 0.99}


_TABLE_4 = "VICReg's paper, section 5.1, appendix C.4 and Table 4: BYOL with 100 epochs, base rate 0.45, batch 4096"


_SOLO_LEARN = (
    "solo-learn, scripts/pretrain/cifar/byol.yaml: ResNet-18 for small images, batch 256, 1000 epochs; residual "
    "branches begin at zero here, not there"
)


RECIPES = {
    "byol": Published(
        source="BYOL, paper and official code: ResNet-50, expander and predictor 4096-256, batch 4096, LARS, base rate "
        "0.2, teacher from 0.996, 1000 epochs",
        expected="linear top-1 74.3 %, top-5 91.6 % (its paper; VICReg's Table 1)",
        pretrain=_imagenet(1000, 0.2),
    ),
    "byol-300ep": Published(
        source="BYOL, official code: as the 1000-epoch run with base rate 0.3, teacher from 0.99, 300 epochs",
        expected="linear top-1 72.5 % (its paper, appendix F)",
        pretrain=_imagenet(300, 0.3, momentum=0.99),
    ),
    "byol-100ep": Published(
        source=_TABLE_4,
        expected="linear top-1 69.3 % (VICReg's Table 4; 66.5 % in SimSiam's Table 4)",
        pretrain=_imagenet(100, 0.45, **_100),
    ),
    "byol-100ep-var": Published(
        source=f"{_TABLE_4}, with the variance term (weight 1)",
        expected="linear top-1 70.2 % (VICReg's Table 4; without the term 69.3 %)",
        pretrain=_imagenet(100, 0.45, variance_weight=1.0, **_100),
    ),
    "byol-100ep-var-cov": Published(
        source=f"{_TABLE_4}, with the variance (weight 1) and covariance (0.01) terms",
        expected="linear top-1 69.5 % (VICReg's Table 4; without the terms 69.3 %)",
        pretrain=_imagenet(100, 0.45, variance_weight=1.0, covariance_weight=0.01, **_100),
    ),
    "cifar10-byol": Published(
        source=_SOLO_LEARN,
        expected="92.58 % top-1 of an online linear head (solo-learn's README)",
        pretrain=_cifar(CIFAR10),
    ),
    "cifar100-byol": Published(
        source=_SOLO_LEARN,
        expected="70.46 % top-1 of an online linear head (solo-learn's README)",
        pretrain=_cifar(CIFAR100),
    ),
}
