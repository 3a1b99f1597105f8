"""MoCo (He et al., CVPR 2020) and MoCo v2 (Chen, Fan, Girshick, He, arXiv 2003.04297): a queue of a teacher's keys."""

from __future__ import annotations

from dataclasses import dataclass

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
from vicreg.losses.settings import require_temperature
from vicreg.method_file import Published, Term
from vicreg.presets import CIFAR10, CIFAR100, SGD, moco_v2_view, solo_learn_cifar
from vicreg.shared_terms import SPREAD


@dataclass(frozen=True)
class Config(MethodConfig):
    """MoCo: queue, teacher and temperature (official code, `main_moco.py` with the flags of version 2)."""

    name: str = "moco_v2"
    temperature: float = 0.2
    """What similarities are divided by."""
    queue_length: int = 65536
    """Keys that queries are compared with; a multiple of the global batch."""
    momentum: float = 0.999
    """Share of itself that the teacher keeps in a step, in the first one."""
    final_momentum: float = 0.999
    """In the last step; between them half a cosine."""
    both_directions: bool = False
    """Whether the second view looks for the first one's key too, in a queue of its own (MoCo v2+ of solo-learn)."""

    def __post_init__(self) -> None:
        require_temperature(self.temperature)
        for name in ("momentum", "final_momentum"):
            require(0 <= getattr(self, name) <= 1, name, getattr(self, name), "from 0 to 1")


TERMS = {
    "loss": Term("Loss", "Cross-entropy of finding an image's key among those of the queue.", "loss", 3),
    "positive_similarity": Term(
        "Similarity of query and key", "Mean cosine between a query and the key of the same image.", "sim", 3
    ),
    **SPREAD,
}


def _imagenet(epochs: int, settings: Config, view: ViewConfig, expander: str) -> PretrainConfig:
    return PretrainConfig(
        settings,
        views=(view, view),
        model=ModelConfig(expander=expander, expander_bias="all", expander_norm="none"),
        optimizer=OptimizerConfig(name="sgd", base_lr=0.03, weight_decay=1e-4, warmup_epochs=0.0, final_lr_ratio=0.0),
        train=TrainConfig(epochs=epochs, global_batch=256),
    )


def _cifar(data: DataConfig) -> PretrainConfig:
    view = moco_v2_view(crop_scale=(0.08, 1.0))
    return solo_learn_cifar(
        Config(momentum=0.99, queue_length=32768, both_directions=True),
        (view, view),
        data,
        optimizer=SGD | {"base_lr": 0.3},
        expander="2048-256",
        expander_norm="none",
    )


_MOCO_V2 = "MoCo v2, official code: ResNet-50, batch 256, SGD, rate 0.03, cosine, queue of 65,536, {} epochs"


_SOLO_LEARN = (
    "solo-learn, scripts/pretrain/cifar/mocov2plus.yaml: ResNet-18 for small images, batch 256, 1000 epochs, both "
    "directions; residual branches begin at zero here, not there"
)


_VIEW_1 = ViewConfig(crop_scale=(0.2, 1.0), jitter_p=1.0, saturation=0.4, hue=0.4, blur_p=0.0)


RECIPES = {
    "moco-v2": Published(
        source=_MOCO_V2.format(800),
        expected="linear top-1 71.1 % (official README; VICReg's Table 1)",
        pretrain=_imagenet(800, Config(), moco_v2_view(), "2048-128"),
    ),
    "moco-v2-200ep": Published(
        source=_MOCO_V2.format(200),
        expected="linear top-1 67.5 ± 0.1 % (official README, five runs)",
        pretrain=_imagenet(200, Config(), moco_v2_view(), "2048-128"),
    ),
    "moco": Published(
        source="MoCo, official code without the flags of version 2: one linear layer, temperature 0.07, weaker views, "
        "200 epochs; its steps of the rate (x 0.1 at 120 and 160) are a cosine here",
        expected="linear top-1 60.6 % (its paper; VICReg's Table 1)",
        pretrain=_imagenet(200, Config(temperature=0.07), _VIEW_1, "128"),
    ),
    "cifar10-moco-v2-plus": Published(
        source=_SOLO_LEARN,
        expected="92.94 % top-1 of an online linear head (solo-learn's README)",
        pretrain=_cifar(CIFAR10),
    ),
    "cifar100-moco-v2-plus": Published(
        source=_SOLO_LEARN,
        expected="69.89 % top-1 of an online linear head (solo-learn's README)",
        pretrain=_cifar(CIFAR100),
    ),
}
