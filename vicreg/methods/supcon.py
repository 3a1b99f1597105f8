"""SupCon (Khosla et al., NeurIPS 2020): views of one class attract each other, all others repel."""

from __future__ import annotations

from dataclasses import dataclass

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
from vicreg.losses.settings import require_temperature
from vicreg.method_file import Published, Term
from vicreg.presets import CIFAR10, CIFAR100, simclr_view
from vicreg.shared_terms import SPREAD


@dataclass(frozen=True)
class Config(MethodConfig):
    """Supervised contrastive learning (paper, section 4.2; its code, `main_supcon.py`)."""

    name: str = "supcon"
    temperature: float = 0.1
    """What similarities are divided by (paper, section 4.4: 0.1)."""

    def __post_init__(self) -> None:
        require_temperature(self.temperature)


TERMS = {
    "loss": Term("Loss", "Of telling the views of the own class from all others of the batch.", "loss", 3),
    "positive_similarity": Term("Similarity within classes", "Mean cosine of views of one class.", "pos", 3),
    **SPREAD,
}


def _imagenet() -> PretrainConfig:
    return PretrainConfig(
        Config(),
        views=(simclr_view(), simclr_view()),
        model=ModelConfig(expander="2048-128", expander_bias="all", expander_norm="none"),
        optimizer=OptimizerConfig(base_lr=0.3, weight_decay=1e-4, final_lr_ratio=0.0),
        train=TrainConfig(epochs=350, global_batch=4096),
    )


def _cifar(data: DataConfig) -> PretrainConfig:
    view = ViewConfig(crop_scale=(0.2, 1.0), saturation=0.4, blur_p=0.0)
    return PretrainConfig(
        Config(),
        data=data,
        views=(view, view),
        model=ModelConfig(
            encoder="resnet18", small_images=True, expander="512-128", expander_bias="all", expander_norm="none"
        ),
        optimizer=OptimizerConfig(name="sgd", base_lr=0.125, weight_decay=1e-4, final_lr_ratio=0.0),
        train=TrainConfig(epochs=1000, global_batch=1024),
        online=OnlineConfig(every_epochs=10),
    )


RECIPES = {
    "supcon": Published(
        source="paper, section 4 (ResNet-50, head 2048-128, temperature 0.1, LARS, 350 epochs), with SimCLR's rate, "
        "batch and augmentation in place of the batch of 6,144 and AutoAugment, which are not in this suite",
        expected="none is published for this setting; the paper's with AutoAugment is 78.7 % linear top-1",
        pretrain=_imagenet(),
    ),
    "cifar10-supcon": Published(
        source="SupContrast's main_supcon.py: batch 1,024, rate 0.5, SGD, decay 1e-4, warm-up of 10 epochs, cosine, "
        "temperature 0.1, 1000 epochs; with a ResNet-18 in place of its ResNet-50",
        expected="93.82 % (solo-learn's README: ResNet-18, temperature and views of its own); 96.0 % with a ResNet-50",
        pretrain=_cifar(CIFAR10),
    ),
    "cifar100-supcon": Published(
        source="the same on CIFAR-100",
        expected="70.38 % (solo-learn's README: ResNet-18, temperature and views of its own); 76.5 % with a ResNet-50",
        pretrain=_cifar(CIFAR100),
    ),
}
