"""SimCLR (Chen, Kornblith, Norouzi, Hinton, ICML 2020): each view finds the other one among all of the global batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from vicreg.branches import Branches, say_branches
from vicreg.config import (
    DataConfig,
    MethodConfig,
    ModelConfig,
    OptimizerConfig,
    PretrainConfig,
    TrainConfig,
)
from vicreg.loss_costs import nt_xent_cost
from vicreg.losses.contrastive import nt_xent_loss, require_temperature
from vicreg.losses.directions import spread_of_directions
from vicreg.losses.forms import NUM_VIEWS
from vicreg.method import Inputs, LossCost, Progress, Published, Term, TrainingData
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


class SimClr(Branches):
    """Both views through their branches, then NT-Xent."""

    follows_progress = False

    def __init__(self, config: PretrainConfig, settings: Config) -> None:
        super().__init__(config)
        self.settings = settings

    def forward(self, inputs: Inputs, progress: Progress) -> dict[str, Tensor]:
        """See `Method`; the terms are `TERMS`."""
        embedded = self.embed(inputs.views)
        factor = NUM_VIEWS if self.settings.directions == "sum" else 1
        terms = nt_xent_loss(embedded.a, embedded.b, self.settings.temperature, factor)
        spread = spread_of_directions(embedded.a, embedded.b)
        return terms | {"embedding_std": spread, "features": embedded.features}


TERMS = {
    "loss": Term("Loss", "Cross-entropy of finding the other view among the global batch.", "loss", 3),
    "positive_similarity": Term(
        "Similarity of the views", "Mean cosine between the embeddings of two views of an image.", "sim", 3
    ),
    **SPREAD,
}


def build(config: PretrainConfig, data: TrainingData) -> SimClr:
    """See `MethodFile`."""
    assert isinstance(config.method, Config)
    return SimClr(config, config.method)


def networks(config: PretrainConfig) -> str:
    """See `MethodFile`."""
    return say_branches(config)


def loss_cost(config: PretrainConfig, ranks: int, size: int) -> LossCost:
    """See `MethodFile`."""
    return nt_xent_cost(config, ranks, size)


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
