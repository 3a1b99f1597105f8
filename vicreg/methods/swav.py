"""SwAV (Caron et al., NeurIPS 2020): each view predicts to which prototypes another view was assigned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

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
from vicreg.losses.settings import SMALLEST_EPSILON
from vicreg.method_file import Published, Term
from vicreg.presets import CIFAR10, CIFAR100, simclr_view, solo_learn_cifar
from vicreg.shared_terms import SPREAD


@dataclass(frozen=True)
class Config(MethodConfig):
    """SwAV: prototypes, assignments and queue (official code, `main_swav.py`)."""

    name: str = "swav"
    num_prototypes: int = 3000
    """Clusters that embeddings are assigned to."""
    temperature: float = 0.1
    """Of the prediction's softmax."""
    epsilon: float = 0.05
    """Of the assignment: larger is softer."""
    sinkhorn_rounds: int = 3
    """Rounds in which the assignments to all prototypes are made alike."""
    num_assigned: int = 2
    """So many first views are assigned, and predicted by all others."""
    rest_steps: int = 313
    """First steps in which the prototypes stay as they are (official code: 313 at batch 4096, 5005 at 256)."""
    queue_length: int = 0
    """Embeddings of earlier batches that are assigned beside the batch's, of each assigned view; 0 for none."""
    queue_from_epoch: float = 15.0
    """Epoch in which the queue begins to fill; once full it is used."""
    adapt_all: bool = True
    """Weight decay and LARS for biases and batch norm too, as in the official program (apex's LARC)."""

    def __post_init__(self) -> None:
        require(self.num_prototypes >= 2, "num_prototypes", self.num_prototypes, "2 or more")
        require(self.temperature > 0, "temperature", self.temperature, "above 0")
        require(self.epsilon >= SMALLEST_EPSILON, "epsilon", self.epsilon, f"{SMALLEST_EPSILON} or more")
        require(self.sinkhorn_rounds >= 1, "sinkhorn_rounds", self.sinkhorn_rounds, "1 or more")
        require(self.num_assigned >= 1, "num_assigned", self.num_assigned, "1 or more")
        for name in ("rest_steps", "queue_length", "queue_from_epoch"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")


TERMS = {
    "loss": Term("Loss", "Cross-entropy between assignments and their prediction from other views.", "loss", 3),
    **SPREAD,
}


_LARGE = simclr_view(crop_scale=(0.14, 1.0), count=2)


_SMALL = simclr_view(image_size=96, crop_scale=(0.05, 0.14), count=6)


def _imagenet(views: Sequence[ViewConfig], epochs: int) -> PretrainConfig:
    return PretrainConfig(
        Config(),
        views=tuple(views),
        model=ModelConfig(expander="2048-128", expander_bias="all"),
        optimizer=OptimizerConfig(base_lr=0.3, warmup_start_lr=0.3),
        train=TrainConfig(epochs=epochs, global_batch=4096),
    )


def _small_batch() -> PretrainConfig:
    config = _imagenet([_LARGE, _SMALL], 200)
    return replace(
        config,
        method=Config(rest_steps=5005, queue_length=3840),
        optimizer=OptimizerConfig(base_lr=0.6, warmup_epochs=0.0),
        train=TrainConfig(epochs=200, global_batch=256),
    )


def _cifar(data: DataConfig) -> PretrainConfig:
    first = ViewConfig(blur_p=0.0)
    settings = Config(rest_steps=2 * 195, queue_length=3840, queue_from_epoch=50.0, adapt_all=False)
    views = first, replace(first, solarize_p=0.2)
    return solo_learn_cifar(
        settings, views, data, optimizer={"base_lr": 0.6, "weight_decay": 1e-6}, expander="2048-128"
    )


_OFFICIAL = "official code: ResNet-50, {}, batch {}, LARS (apex's LARC, not clipped), {} epochs"


RECIPES = {
    "swav": Published(
        source=_OFFICIAL.format("2 x 224 and 6 x 96 px", 4096, 800),
        expected="linear top-1 75.3 % (its README; VICReg paper, Table 1)",
        pretrain=_imagenet([_LARGE, _SMALL], 800),
    ),
    "swav-200ep": Published(
        source=_OFFICIAL.format("2 x 224 and 6 x 96 px", 4096, 200),
        expected="linear top-1 73.9 % (its README)",
        pretrain=_imagenet([_LARGE, _SMALL], 200),
    ),
    "swav-2crops": Published(
        source=_OFFICIAL.format("2 x 224 px", 4096, 400),
        expected="linear top-1 70.1 % (its README); the VICReg paper's row of two crops, 71.8 %, is of 800 epochs",
        pretrain=_imagenet([_LARGE], 400),
    ),
    "swav-batch256": Published(
        source=_OFFICIAL.format("2 x 224 and 6 x 96 px", 256, 200)
        + ", a queue of 3,840 from epoch 15, prototypes that rest for 5,005 steps",
        expected="linear top-1 72.7 % (its README)",
        pretrain=_small_batch(),
    ),
    "cifar10-swav": Published(
        source="solo-learn, scripts/pretrain/cifar/swav.yaml: ResNet-18 for small images, batch 256, 1000 epochs, a "
        "queue of 3,840 from epoch 50, prototypes that rest for 2 epochs",
        expected="89.17 % top-1 of an online linear head (solo-learn's README)",
        pretrain=_cifar(CIFAR10),
    ),
    "cifar100-swav": Published(
        source="solo-learn, scripts/pretrain/cifar/swav.yaml, on CIFAR-100",
        expected="64.88 % top-1 of an online linear head (solo-learn's README)",
        pretrain=_cifar(CIFAR100),
    ),
}
