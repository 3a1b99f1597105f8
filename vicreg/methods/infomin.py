"""InfoMin Aug (Tian et al., NeurIPS 2020): MoCo v2 with stronger views, and a jigsaw that looks for the same key."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vicreg.config import ModelConfig, OptimizerConfig, PretrainConfig, TrainConfig, ViewConfig, require
from vicreg.key_queue import KeyQueue
from vicreg.losses.contrastive import queue_loss
from vicreg.losses.directions import spread_of_directions
from vicreg.method import Inputs, LossCost, ParameterGroup, Pass, Progress, Published, Term, TrainingData
from vicreg.methods import moco_v2
from vicreg.methods.moco_v2 import Moco
from vicreg.model import num_features
from vicreg.presets import simclr_view

GRID = 3
PATCHES = GRID * GRID
WINDOW = 64 / 85
"""Side of a patch over that of its cell (PyContrast: 64 px of 85)."""


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
        self.jigsaw_weight = settings.jigsaw_weight
        dims = int(config.model.expander.split("-")[-1])
        self.patch_head = nn.Linear(num_features(self.encoder), dims)
        self.jigsaw_head = nn.Linear(PATCHES * dims, dims)

    def forward(self, inputs: Inputs, progress: Progress) -> dict[str, Tensor]:
        """See `Method`; the terms are `TERMS`."""
        features = self.encoder(inputs.views[0])
        query = self.expander(features)
        key = self.keys_of(inputs.views[1])
        pieces = self.of_jigsaw(inputs.views[2], keyed_numbers(inputs.samples, progress.step))
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

    def of_jigsaw(self, images: Tensor, numbers: Tensor) -> Tensor:
        """The embedding (B, D) of images' patches; `numbers` (B, 3, 9) in [0, 1) say where and in which order."""
        patches = patches_of(images, numbers)
        said = self.patch_head(self.encoder(patches.flatten(0, 1))).unflatten(0, patches.shape[:2])
        joint: Tensor = self.jigsaw_head(said.flatten(1))
        return joint

    def parameter_groups(self) -> list[ParameterGroup]:
        """As MoCo's, and the jigsaw's heads."""
        heads = [*self.patch_head.parameters(), *self.jigsaw_head.parameters()]
        return [*super().parameter_groups(), ParameterGroup(heads)]

    def passes(self) -> list[Pass]:
        """As MoCo's, and the jigsaw."""
        return [*super().passes(), Pass(_JigsawPass(self), 2)]


class _JigsawPass(nn.Module):
    """The way of the third view, patches in their places and order."""

    def __init__(self, method: InfoMin) -> None:
        super().__init__()
        self.encoder, self.patch_head, self.jigsaw_head = method.encoder, method.patch_head, method.jigsaw_head

    def forward(self, images: Tensor) -> Tensor:
        numbers = torch.zeros(len(images), 3, PATCHES, device=images.device)
        return InfoMin.of_jigsaw(self, images, numbers)  # type: ignore[arg-type]  # it has what is asked for


def patches_of(images: Tensor, numbers: Tensor) -> Tensor:
    """Nine windows (B, 9, 3, P, P), one of each cell of a 3x3 grid, at random places and in random order."""
    cell = images.shape[-1] // GRID
    side = max(1, round(cell * WINDOW))
    places = torch.arange(PATCHES, device=images.device)
    free = (numbers[:, :2] * (cell - side + 1)).long()
    top, left = free[:, 0] + places // GRID * cell, free[:, 1] + places % GRID * cell
    order = numbers[:, 2].sort(dim=1, stable=True).indices
    top, left = top.gather(1, order), left.gather(1, order)
    steps = torch.arange(side, device=images.device)
    image = torch.arange(len(images), device=images.device)[:, None, None, None]
    rows, columns = (top[..., None] + steps)[..., None], (left[..., None] + steps)[:, :, None]
    return images[image, :, rows, columns].permute(0, 1, 4, 2, 3)


def keyed_numbers(samples: Tensor, step: int) -> Tensor:
    """Numbers in [0, 1), float32 (B, 3, 9), that depend on sample and step alone: the same on any number of ranks."""
    places = torch.arange(3 * PATCHES, device=samples.device)
    mixed = ((samples[:, None] * 1_000_003 + step) * 3 * PATCHES + places + 1) * 0x1E3779B97F4A7C15
    for factor in (0x3F58476D1CE4E5B9, 0x14D049BB133111EB):  # as Steele, Lea, Flood's SplitMix, of 63 bits
        mixed = (mixed ^ (mixed >> 30)) * factor
    mixed = mixed ^ (mixed >> 31)
    return ((mixed >> 16) & 0xFFFFFF).float().div(2**24).view(-1, 3, PATCHES)


TERMS = moco_v2.TERMS | {
    "jigsaw_loss": Term("Loss of the jigsaw", "Cross-entropy of finding the image's key from its shuffled patches.")
}


def build(config: PretrainConfig, data: TrainingData) -> InfoMin:
    """See `MethodFile`."""
    assert isinstance(config.method, Config)
    return InfoMin(config, config.method)


def networks(config: PretrainConfig) -> str:
    """See `MethodFile`."""
    return f"{moco_v2.networks(config)}, a jigsaw of {PATCHES} patches"


def loss_cost(config: PretrainConfig, ranks: int, size: int) -> LossCost:
    """See `MethodFile`. Two kinds of queries against one queue."""
    return moco_v2.loss_cost(config, ranks, size, queries=2)


def _imagenet(epochs: int) -> PretrainConfig:
    view = simclr_view(crop_scale=(0.2, 1.0))
    jigsaw = ViewConfig(image_size=255, crop_scale=(0.6, 1.0), saturation=0.4, hue=0.2, blur_p=0.0)
    return PretrainConfig(
        Config(),
        views=(view, view, jigsaw),
        model=ModelConfig(expander="2048-128", expander_bias="all", expander_norm="none"),
        optimizer=OptimizerConfig(name="sgd", base_lr=0.03, weight_decay=1e-4, warmup_epochs=0.0, final_lr_ratio=0.0),
        train=TrainConfig(epochs=epochs, global_batch=256),
    )


_SOURCE = (
    "InfoMin Aug, paper and PyContrast: MoCo v2 with a jigsaw branch, temperature 0.15, {} epochs; without the "
    "RandAugment of its views, which this suite does not have"
)

RECIPES = {
    "infomin": Published(
        source=_SOURCE.format(800),
        expected="linear top-1 73.0 %, top-5 91.1 % with RandAugment (its paper; VICReg's Table 1)",
        pretrain=_imagenet(800),
    ),
    "infomin-200ep": Published(
        source=_SOURCE.format(200),
        expected="linear top-1 70.1 % with RandAugment (PyContrast's README)",
        pretrain=_imagenet(200),
    ),
}
