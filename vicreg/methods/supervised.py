"""A supervised network: what the tables of self-supervised methods are measured against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from vicreg.config import (
    MethodConfig,
    ModelConfig,
    OnlineConfig,
    OptimizerConfig,
    PretrainConfig,
    TrainConfig,
    ViewConfig,
    require,
)
from vicreg.losses.contrastive import at_least_float32
from vicreg.losses.forms import FormCost, ring_sum_bytes
from vicreg.losses.written_gradient import of_whole_batch
from vicreg.method import Inputs, LossCost, Method, ParameterGroup, Pass, Progress, Published, Term, TrainingData
from vicreg.model import encoder_by_config, num_features
from vicreg.presets import CIFAR10, PLAIN_CROP


@dataclass(frozen=True)
class Config(MethodConfig):
    """Supervised learning."""

    name: str = "supervised"
    label_smoothing: float = 0.0
    """Share of the target that goes to all classes alike (torchvision's reference for ResNet-50, first weights: 0)."""

    def __post_init__(self) -> None:
        require(0 <= self.label_smoothing < 1, "label_smoothing", self.label_smoothing, "from 0 to below 1")


class Supervised(Method):
    """One or more views through the encoder and a linear classifier; there is no expander."""

    follows_progress = False

    def __init__(self, config: PretrainConfig, settings: Config, num_classes: int) -> None:
        super().__init__()
        require(not config.model.encoder_b, "encoder_b", config.model.encoder_b, "none for supervised")
        self.settings = settings
        self.encoder = encoder_by_config(config.model)
        self.classifier = nn.Linear(num_features(self.encoder), num_classes)
        self.num_views = len(config.each_view)

    @property
    def encoders(self) -> dict[str, nn.Module]:
        """One."""
        return {"a": self.encoder}

    def forward(self, inputs: Inputs, progress: Progress) -> dict[str, Tensor]:
        """See `Method`; the terms are `TERMS`."""
        features = [self.encoder(view) for view in inputs.views]
        scores = torch.cat([self.classifier(each) for each in features])
        return self._terms(scores, inputs.labels.repeat(self.num_views)) | {
            "features": torch.cat([each.detach() for each in features])
        }

    def _terms(self, scores: Tensor, labels: Tensor) -> dict[str, Tensor]:
        with torch.autocast(scores.device.type, enabled=False):
            scores = at_least_float32(scores)
            total = of_whole_batch(torch.ones_like(scores[:, 0]).sum().detach())
            losses = nn.functional.cross_entropy(
                scores, labels, reduction="sum", label_smoothing=self.settings.label_smoothing
            )
            right = (scores.argmax(1) == labels).sum().to(scores.dtype)
            return {"loss": of_whole_batch(losses / total), "train_top1": of_whole_batch(right) / total}

    def parameter_groups(self) -> list[ParameterGroup]:
        """All with weight decay, biases and batch norm too, as in torchvision's reference."""
        return [ParameterGroup([parameter for parameter in self.parameters() if parameter.requires_grad])]

    def passes(self) -> list[Pass]:
        """Each view forward and backward."""
        network = nn.Sequential(self.encoder, self.classifier)
        return [Pass(network, view) for view in range(self.num_views)]


TERMS = {
    "loss": Term("Loss", "Cross-entropy over the global batch.", "loss", 3),
    "train_top1": Term("Right in training", "Share of training images, as augmented, that are told right.", "right", 3),
}


def build(config: PretrainConfig, data: TrainingData) -> Supervised:
    """See `MethodFile`; ValueError where the data have no classes."""
    assert isinstance(config.method, Config)
    return Supervised(config, config.method, data.require_classes(config.method.name))


def networks(config: PretrainConfig) -> str:
    """See `MethodFile`."""
    return f"{config.model.encoder} with a linear classifier"


def loss_cost(config: PretrainConfig, ranks: int, size: int) -> LossCost:
    """See `MethodFile`. A score for each class; 1,000 are assumed, as the data are not known here."""
    classes = 1000
    scores = config.train.global_batch // ranks * len(config.each_view) * classes * size
    only = FormCost(flops=0, memory_bytes=2 * scores, sent_bytes=0, num_collectives=3)
    return LossCost("cross-entropy", {"only": only}, scores, ring_sum_bytes(3 * size, ranks), 4 * scores)


def _imagenet() -> PretrainConfig:
    return PretrainConfig(
        Config(),
        views=(PLAIN_CROP,),
        optimizer=OptimizerConfig(name="sgd", base_lr=0.1, weight_decay=1e-4, warmup_epochs=5.0, final_lr_ratio=0.0),
        train=TrainConfig(epochs=90, global_batch=1024),
    )


def _cifar10(views: Sequence[ViewConfig]) -> PretrainConfig:
    return PretrainConfig(
        Config(),
        data=CIFAR10,
        views=tuple(views),
        model=ModelConfig(encoder="resnet18", small_images=True),
        optimizer=OptimizerConfig(name="sgd", base_lr=0.2, weight_decay=1e-4, warmup_epochs=10.0, final_lr_ratio=0.0),
        train=TrainConfig(epochs=200, global_batch=256),
        online=OnlineConfig(every_epochs=10),
    )


RECIPES = {
    "supervised": Published(
        source="torchvision's reference for ResNet-50 (SGD, 0.1 for 256 images, decay 1e-4 on everything, 90 epochs; "
        "crop and flip) with a cosine instead of its steps, and 5 epochs of warm-up for the larger batch",
        expected="top-1 76.5 % (VICReg paper, Table 1; torchvision's weights 76.1 %)",
        pretrain=_imagenet(),
    ),
    "cifar10-supervised": Published(
        source="SupContrast's main_ce.py (rate 0.8 for 1,024 images, decay 1e-4, SGD with a cosine) with a ResNet-18, "
        "200 epochs and the weaker half of its augmentation (crop and flip)",
        expected="none is published for this setting; SupContrast's ResNet-50 has 95.0 % with its own",
        pretrain=_cifar10([replace(PLAIN_CROP, crop_scale=(0.2, 1.0))]),
    ),
}
