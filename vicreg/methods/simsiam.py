"""SimSiam (Chen, He, CVPR 2021): each view's prediction of the other one, whose own gradient is stopped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from vicreg.config import DataConfig, MethodConfig, ModelConfig, OptimizerConfig, PretrainConfig, TrainConfig, require
from vicreg.losses.settings import SpreadConfig
from vicreg.method_file import Published, Term
from vicreg.presets import CIFAR10, CIFAR100, SGD, moco_v2_view, solo_learn_cifar
from vicreg.shared_terms import REGULARISED, SPREAD

Norm = Literal["plain", "none"]


@dataclass(frozen=True)
class Config(SpreadConfig, MethodConfig):
    """SimSiam: predictor (paper, section 3; official code), VICReg's terms if weighted."""

    name: str = "simsiam"
    predictor_width: int = 512
    """Of the predictor's hidden layer, which has batch norm where the expander has; 0: no predictor."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.predictor_width >= 0, "predictor_width", self.predictor_width, "0 (none) or more")


TERMS = {
    "loss": Term("Loss", "Minus the cosine between prediction and embedding, mean of both directions.", "loss"),
    **SPREAD,
    **REGULARISED,
}


def _imagenet(epochs: int, batch: int, warmup: float = 0.0, norm: Norm = "plain", **settings: Any) -> PretrainConfig:
    bias: Literal["none", "all"] = "none" if norm == "plain" else "all"
    return PretrainConfig(
        Config(**settings),
        views=(moco_v2_view(), moco_v2_view()),
        model=ModelConfig(expander="2048-2048-2048", expander_bias=bias, expander_norm=norm),
        optimizer=OptimizerConfig(
            name="sgd", base_lr=0.05, weight_decay=1e-4, warmup_epochs=warmup, final_lr_ratio=0.0
        ),
        train=TrainConfig(epochs=epochs, global_batch=batch),
    )


def _cifar(data: DataConfig) -> PretrainConfig:
    view = moco_v2_view(crop_scale=(0.08, 1.0))
    return solo_learn_cifar(
        Config(),
        (view, view),
        data,
        optimizer=SGD | {"base_lr": 0.5, "weight_decay": 1e-5},
        expander_bias="none",
        expander_norm="plain",
    )


_OFFICIAL = "SimSiam, paper and official code: ResNet-50, expander 2048-2048-2048, predictor 512, SGD, rate 0.05"


_TABLE_4 = (
    "VICReg's paper, section 5.1, appendix C.4 and Table 4: SimSiam with batch 2048, 10 epochs of warm-up, 100 "
    "epochs{}{}"
)


_WITH: dict[str, tuple[str, dict[str, Any]]] = {
    "": ("", {}),
    "-var": (", with the variance term (weight 1)", {"variance_weight": 1.0}),
    "-var-cov": (
        ", with the variance (weight 1) and covariance (0.01) terms",
        {"variance_weight": 1.0, "covariance_weight": 0.01},
    ),
}


_WITHOUT: dict[str, tuple[str, dict[str, Any], tuple[str, str, str]]] = {
    "simsiam-batch2048": ("", {}, ("67.9 %", "68.1 %", "67.6 %")),
    "simsiam-no-norm": (
        ", no batch norm in expander and predictor",
        {"norm": "none"},
        ("35.1 %", "67.3 %", "67.1 %"),
    ),
    "simsiam-no-predictor": (
        ", neither predictor nor batch norm in the expander",
        {"norm": "none", "predictor_width": 0},
        ("a collapse", "56.8 %", "66.1 %"),
    ),
}


_SOLO_LEARN = (
    "solo-learn, scripts/pretrain/cifar/simsiam.yaml: ResNet-18 for small images, batch 256, 1000 epochs; residual "
    "branches begin at zero here, not there"
)


RECIPES = {
    "simsiam": Published(
        source=f"{_OFFICIAL}, batch 512, 100 epochs",
        expected="linear top-1 68.1 % (official README; 68.3 % with batch 256)",
        pretrain=_imagenet(100, 512),
    ),
    "simsiam-800ep": Published(
        source=f"{_OFFICIAL}, batch 256, 800 epochs",
        expected="linear top-1 71.3 % (its paper, Table 4; VICReg's Table 1)",
        pretrain=_imagenet(800, 256),
    ),
    **{
        f"{name}{suffix}": Published(
            source=_TABLE_4.format(without, added),
            expected=f"linear top-1 {found} (VICReg's Table 4)",
            pretrain=_imagenet(100, 2048, 10.0, **changed, **weights),
        )
        for name, (without, changed, row) in _WITHOUT.items()
        for (suffix, (added, weights)), found in zip(_WITH.items(), row, strict=True)
    },
    "cifar10-simsiam": Published(
        source=_SOLO_LEARN,
        expected="90.51 % top-1 of an online linear head (solo-learn's README)",
        pretrain=_cifar(CIFAR10),
    ),
    "cifar100-simsiam": Published(
        source=_SOLO_LEARN,
        expected="66.04 % top-1 of an online linear head (solo-learn's README)",
        pretrain=_cifar(CIFAR100),
    ),
}
