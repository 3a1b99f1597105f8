"""BYOL (Grill et al., NeurIPS 2020): a student predicts what a slow teacher says of the other view."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vicreg.branches import Branches, say_branches
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
from vicreg.loss_costs import cosines_cost
from vicreg.losses.directions import negative_cosine, spread_of_directions
from vicreg.losses.forms import NUM_VIEWS
from vicreg.losses.variance_covariance import SpreadConfig, add_spread
from vicreg.method import Inputs, LossCost, Pass, Progress, Published, Term, TrainingData
from vicreg.model import build_expander
from vicreg.moving_average import follow, momentum_at, teacher_of
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


class Byol(Branches):
    """Each view is predicted from the other; the teacher follows after the optimizer's step."""

    def __init__(self, config: PretrainConfig, settings: Config) -> None:
        super().__init__(config)
        require(self.is_shared, "encoder_b", config.model.encoder_b, "none for byol")
        self.settings = settings
        dims = config.model.expander.split("-")[-1]
        self.predictor = build_expander(int(dims), f"{settings.predictor_width}-{dims}")
        self.teacher = teacher_of(self.student)

    @property
    def student(self) -> nn.Sequential:
        """What the teacher is an average of: images in, embeddings out."""
        return nn.Sequential(self.encoder, self.expander)

    def forward(self, inputs: Inputs, progress: Progress) -> dict[str, Tensor]:
        """See `Method`; the terms are `TERMS`."""
        embedded = self.embed(inputs.views)
        with torch.no_grad():
            of_a, of_b = (self.teacher(view) for view in inputs.views)
        # |p - z|^2 = 2 - 2 cos of vectors of length 1; both directions are added.
        cosines = negative_cosine(self.predictor(embedded.a), of_b) + negative_cosine(self.predictor(embedded.b), of_a)
        terms = {"loss": 4 + 2 * cosines, "embedding_std": spread_of_directions(embedded.a, embedded.b)}
        return add_spread(terms, embedded.a, embedded.b, self.settings) | {"features": embedded.features}

    def after_step(self, progress: Progress, taken: Tensor) -> None:
        """The teacher follows what the step has made of the student."""
        momentum = momentum_at(self.settings.momentum, self.settings.final_momentum, progress)
        follow(self.teacher, self.student, momentum, taken)

    def passes(self) -> list[Pass]:
        """Each view through student and predictor, and through the teacher."""
        student = nn.Sequential(self.encoder, self.expander, self.predictor)
        return [
            way
            for view in range(NUM_VIEWS)
            for way in (Pass(student, view), Pass(self.teacher, view, has_gradient=False))
        ]


TERMS = {
    "loss": Term(
        "Loss", "Squared distance between prediction and teacher's embedding at length 1, both directions.", "loss"
    ),
    **SPREAD,
    **REGULARISED,
}


def build(config: PretrainConfig, data: TrainingData) -> Byol:
    """See `MethodFile`."""
    assert isinstance(config.method, Config)
    return Byol(config, config.method)


def networks(config: PretrainConfig) -> str:
    """See `MethodFile`."""
    assert isinstance(config.method, Config)
    return f"{say_branches(config)}, predictor {config.method.predictor_width}, a teacher"


def loss_cost(config: PretrainConfig, ranks: int, size: int) -> LossCost:
    """See `MethodFile`. Embeddings, predictions, what the teacher says, and two gradients."""
    return cosines_cost(config, ranks, size, kept=5)


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
