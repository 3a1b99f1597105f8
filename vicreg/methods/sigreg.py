"""LeJEPA (Balestriero and LeCun, arXiv 2511.08544): views agree, and embeddings are normally distributed (SIGReg)."""

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
    require,
)
from vicreg.method_file import Published, Term
from vicreg.presets import simclr_view, solo_learn_cifar


@dataclass(frozen=True)
class Config(MethodConfig):
    """LeJEPA: one weight between its two terms (paper, section 5; minimal example of the official code)."""

    name: str = "sigreg"
    regulariser_weight: float = 0.02
    """Weight of SIGReg; the agreement of the views has the rest of 1 (the paper's lambda)."""
    num_directions: int = 256
    """Random directions on which embeddings are projected, others in each step."""
    num_knots: int = 17
    """Places at which characteristic functions are compared."""
    largest_t: float = 3.0
    """The last of them; the first is 0."""

    def __post_init__(self) -> None:
        weight = self.regulariser_weight
        require(0 <= weight <= 1, "regulariser_weight", weight, "from 0 to 1")
        require(self.num_directions >= 1, "num_directions", self.num_directions, "1 or more")
        require(self.num_knots >= 2, "num_knots", self.num_knots, "2 or more")
        require(self.largest_t > 0, "largest_t", self.largest_t, "above 0")


TERMS = {
    "loss": Term("Loss", "Weighted mean of agreement and SIGReg over the global batch.", "loss", spans_decades=True),
    "agreement": Term(
        "Agreement", "Mean squared distance of the views' embeddings from their mean.", "agree", spans_decades=True
    ),
    "regulariser": Term(
        "SIGReg",
        "Epps and Pulley's statistic of random projections beside N(0, 1); near 0 is the aim.",
        "sigreg",
        3,
        spans_decades=True,
    ),
    "embedding_std": Term(
        "Embedding's standard deviation",
        "Mean over dimensions; 1 is the aim, near 0 is collapse.",
        collapsed_below=0.05,
    ),
}


def _view(count: int) -> ViewConfig:
    return simclr_view(count=count, solarize_p=0.2)


def _imagenette() -> PretrainConfig:
    return PretrainConfig(
        Config(),
        data=DataConfig("data/imagenette/train.beton", "data/imagenette/val.beton", image_size=128, eval_resize=128),
        views=(_view(4),),
        model=ModelConfig(encoder="resnet18", expander="2048-2048-16", expander_bias="all"),
        optimizer=OptimizerConfig(
            name="adamw", base_lr=2e-3, weight_decay=5e-2, warmup_epochs=1.0, warmup_start_lr=2e-5, final_lr_ratio=0.5
        ),
        train=TrainConfig(epochs=800, global_batch=256),
    )


def _imagenet() -> PretrainConfig:
    config = _imagenette()
    return replace(
        config,
        data=DataConfig(),
        model=replace(config.model, encoder="resnet50", expander="2048-2048-128"),
        optimizer=replace(config.optimizer, base_lr=5e-4, warmup_epochs=10.0, final_lr_ratio=0.001),
        train=TrainConfig(epochs=100, global_batch=512),
    )


def _cifar10() -> PretrainConfig:
    view = ViewConfig(crop_scale=(0.2, 1.0), blur_p=0.0, solarize_p=0.1)
    config = solo_learn_cifar(Config(), (view, view))
    return replace(config, model=replace(config.model, expander="2048-2048-128"))


RECIPES = {
    "imagenette-sigreg": Published(
        source="the official code's minimal example (Imagenette at 128 px, 4 views, AdamW 2e-3, decay 0.05, weight "
        "0.02, head 2048-2048-16, batch 256, 800 epochs) with a ResNet-18 in place of its ViT-S/8 of 128 px",
        expected="none is published for a ResNet-18; the example's ViT-S/8 reaches 90.7 % with an online linear head",
        pretrain=_imagenette(),
    ),
    "sigreg-100ep": Published(
        source="ours, of the minimal example's parts: a ResNet-50 on ImageNet, head 2048-2048-128, 100 epochs, 5e-4",
        expected="none is published for a ResNet-50; the paper has 79 % linear top-1 with a ViT-H/14",
        pretrain=_imagenet(),
    ),
    "cifar10-sigreg": Published(
        source="ours: solo-learn's CIFAR-10 setting of VICReg with LeJEPA's loss and head 2048-2048-128",
        expected="none is published; beside `cifar10`, VICReg's 92.07 %, in the same setting",
        pretrain=_cifar10(),
    ),
}
