"""InfoMin Aug (Tian et al., NeurIPS 2020): MoCo v2 with stronger views, and a jigsaw that looks for the same key."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor, nn

from vicreg.config import ModelConfig, OptimizerConfig, PretrainConfig, TrainConfig, require
from vicreg.key_queue import KeyQueue
from vicreg.losses.contrastive import queue_loss
from vicreg.losses.directions import spread_of_directions
from vicreg.method import Inputs, LossCost, ParameterGroup, Pass, Progress, Published, Term, TrainingData
from vicreg.methods import moco_v2
from vicreg.methods.moco_v2 import Moco
from vicreg.model import num_features
from vicreg.patches import PATCH_SHARE, Jigsaw, global_draws
from vicreg.presets import PLAIN_CROP, SGD, simclr_view, solo_learn_cifar

CELLS = 3
"""Parts of each side of the third view that patches are cut from."""


@dataclass(frozen=True)
class Config(moco_v2.Config):
    """InfoMin: MoCo's settings, temperature and weight of the jigsaw (PyContrast, `options/base_options.py`)."""

    name: str = "infomin"
    temperature: float = 0.15
    jigsaw_weight: float = 0.5
    """Of the loss of the jigsaw; the image's is the rest of 1."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.jigsaw_weight <= 1, "jigsaw_weight", self.jigsaw_weight, "from 0 to 1")
        require(not self.both_directions, "both_directions", True, "False for infomin")


class InfoMin(Moco):
    """MoCo, and nine patches of a third view in random order, whose joint embedding looks for the image's key too."""

    num_views = 3

    def __init__(self, config: PretrainConfig, settings: Config) -> None:
        super().__init__(config, settings)
        self.jigsaw_weight, self.seed = settings.jigsaw_weight, config.train.seed
        dims = int(config.model.expander.split("-")[-1])
        self.patch_head = nn.Linear(num_features(self.encoder), dims)
        self.jigsaw_head = nn.Linear(CELLS**2 * dims, dims)

    def forward(self, inputs: Inputs, progress: Progress) -> dict[str, Tensor]:
        """See `Method`; the terms are `TERMS`."""
        features = self.encoder(inputs.views[0])
        query = self.expander(features)
        key = self.keys_of(inputs.views[1])
        patches = inputs.views[2]
        draws = global_draws(len(patches), (CELLS**2, 3), (self.seed << 32) + progress.step, patches.device)
        pieces = self._jigsaw()(patches, draws)
        (queue,) = self.queues
        assert isinstance(queue, KeyQueue)
        image, jigsaw = (queue_loss(z, key, queue.keys, self.settings.temperature) for z in (query, pieces))
        self._new_keys = [key]
        loss = (1 - self.jigsaw_weight) * image["loss"] + self.jigsaw_weight * jigsaw["loss"]
        return {
            "loss": loss,
            "positive_similarity": image["positive_similarity"],
            "embedding_std": spread_of_directions(query),
            "jigsaw_loss": jigsaw["loss"].detach(),
            "features": features.detach(),
        }

    def _jigsaw(self) -> Jigsaw:
        return Jigsaw(self.encoder, self.patch_head, self.jigsaw_head, CELLS, PATCH_SHARE)

    def parameter_groups(self) -> list[ParameterGroup]:
        """As MoCo's, and the jigsaw's heads."""
        heads = [*self.patch_head.parameters(), *self.jigsaw_head.parameters()]
        return [*super().parameter_groups(), ParameterGroup(heads)]

    def passes(self) -> list[Pass]:
        """As MoCo's, and the jigsaw."""
        return [*super().passes(), Pass(self._jigsaw(), 2)]


TERMS = moco_v2.TERMS | {
    "jigsaw_loss": Term("Loss of the jigsaw", "Cross-entropy of finding the image's key from its shuffled patches.")
}


def build(config: PretrainConfig, data: TrainingData) -> InfoMin:
    """See `MethodFile`."""
    assert isinstance(config.method, Config)
    return InfoMin(config, config.method)


def networks(config: PretrainConfig) -> str:
    """See `MethodFile`."""
    return f"{moco_v2.networks(config)}, a jigsaw of {CELLS**2} patches"


def loss_cost(config: PretrainConfig, ranks: int, size: int) -> LossCost:
    """See `MethodFile`. Two kinds of queries against one queue."""
    return moco_v2.loss_cost(config, ranks, size, queries=2)


def _imagenet(epochs: int) -> PretrainConfig:
    view = simclr_view(crop_scale=(0.2, 1.0), rand_augment=2)
    jigsaw = replace(PLAIN_CROP, image_size=255, crop_scale=(0.6, 1.0))
    return PretrainConfig(
        Config(),
        views=(view, view, jigsaw),
        model=ModelConfig(expander="2048-128", expander_bias="all", expander_norm="none"),
        optimizer=OptimizerConfig(name="sgd", base_lr=0.03, weight_decay=1e-4, warmup_epochs=0.0, final_lr_ratio=0.0),
        train=TrainConfig(epochs=epochs, global_batch=256),
    )


def _cifar10() -> PretrainConfig:
    view = simclr_view(crop_scale=(0.2, 1.0), blur_p=0.0, rand_augment=2)
    jigsaw = replace(PLAIN_CROP, image_size=48, crop_scale=(0.6, 1.0))
    return solo_learn_cifar(
        Config(momentum=0.99, queue_length=32768),
        (view, view, jigsaw),
        optimizer=SGD | {"base_lr": 0.3},
        expander="2048-256",
        expander_norm="none",
    )


_SOURCE = (
    "InfoMin Aug, paper and PyContrast (its option --aug D): MoCo v2 with RandAugment in its views and a jigsaw, "
    "temperature 0.15, {} epochs"
)

RECIPES = {
    "infomin": Published(
        source=_SOURCE.format(800),
        expected="linear top-1 73.0 %, top-5 91.1 % (its paper; VICReg's Table 1)",
        pretrain=_imagenet(800),
    ),
    "infomin-200ep": Published(
        source=_SOURCE.format(200),
        expected="linear top-1 70.1 % (PyContrast's README)",
        pretrain=_imagenet(200),
    ),
    "cifar10-infomin": Published(
        source="ours: the setting of cifar10-moco-v2-plus in one direction, with this method's views and jigsaw of "
        "patches of 12 px",
        expected="none is published",
        pretrain=_cifar10(),
    ),
}
