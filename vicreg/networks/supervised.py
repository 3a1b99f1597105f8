"""A supervised network: what the tables of self-supervised methods are measured against."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vicreg.config import (
    PretrainConfig,
    require,
)
from vicreg.losses.contrastive import at_least_float32
from vicreg.losses.forms import FormCost, ring_sum_bytes
from vicreg.losses.written_gradient import of_whole_batch
from vicreg.method import Inputs, LossCost, Method, ParameterGroup, Pass, Progress, TrainingData
from vicreg.methods.supervised import Config
from vicreg.model import encoder_by_config, num_features


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
