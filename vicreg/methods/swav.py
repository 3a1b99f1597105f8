"""SwAV (Caron et al., NeurIPS 2020): each view predicts to which prototypes another view was assigned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

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
from vicreg.key_queue import KeyQueue
from vicreg.losses.contrastive import at_least_float32
from vicreg.losses.directions import spread_of_directions
from vicreg.losses.forms import ring_sum_bytes
from vicreg.losses.prototypes import SMALLEST_EPSILON, prototypes_cost, sinkhorn, swapped_prediction
from vicreg.method import Inputs, LossCost, ParameterGroup, Progress, Published, Term, TrainingData, usual_groups
from vicreg.one_network import OneNetwork
from vicreg.presets import CIFAR10, CIFAR100, simclr_view, solo_learn_cifar
from vicreg.ranks import distributed
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


class Swav(OneNetwork):
    """All views through encoder and expander; unit embeddings are compared with unit prototypes.

    The queue is the same on all ranks, so that any number of them can go on with it; each takes its share of it to the
    assignment. ValueError where its length is no multiple of the global batch, or views are too few.
    """

    num_queued: Tensor

    def __init__(self, config: PretrainConfig, settings: Config) -> None:
        super().__init__(config)
        self.settings = settings
        batch, dims = config.train.global_batch, int(config.model.expander.split("-")[-1])
        least = max(2, settings.num_assigned)
        require(self.num_views >= least, "views", f"{self.num_views} of an image", f"{least} or more for swav")
        self.prototypes = nn.Linear(dims, settings.num_prototypes, bias=False)
        with torch.no_grad():
            self.prototypes.weight.copy_(nn.functional.normalize(self.prototypes.weight, dim=1))
        if settings.queue_length:
            queues = (KeyQueue(settings.queue_length, dims, batch) for _ in range(settings.num_assigned))
            self.queues = nn.ModuleList(queues)
            self.register_buffer("num_queued", torch.zeros((), dtype=torch.int64))

    def forward(self, inputs: Inputs, progress: Progress) -> dict[str, Tensor]:
        """See `Method`; the terms are `TERMS`."""
        embeddings, features = self.embed(inputs.views)
        unit = nn.functional.normalize(at_least_float32(embeddings), dim=2)
        self._assigned = unit[: self.settings.num_assigned].detach()
        with torch.autocast(unit.device.type, enabled=False):
            targets = [self._assign(view, rows, progress) for view, rows in enumerate(self._assigned)]
        loss = swapped_prediction(unit, self.prototypes.weight, targets, self.settings.temperature)
        return {"loss": loss, "embedding_std": spread_of_directions(*unit.detach()), "features": features}

    @torch.no_grad()
    def _assign(self, view: int, rows: Tensor, progress: Progress) -> Tensor:
        """Own rows' assignments (n, K), made beside the queue's once that is full."""
        rows = rows.to(self.prototypes.weight.dtype)
        counts = rows.new_ones(len(rows))
        taken = rows
        if self._fills(progress):
            share = self.settings.queue_length // distributed.world_size()
            earlier = self.queues[view].get_buffer("keys")[distributed.rank() * share :][:share]
            is_full = self.num_queued >= self.settings.queue_length
            taken = torch.cat([rows, earlier])
            counts = torch.cat([counts, is_full.to(counts.dtype).expand(share)])
        scores = taken @ self.prototypes.weight.T
        return sinkhorn(scores, counts, self.settings.epsilon, self.settings.sinkhorn_rounds)[: len(rows)]

    def _fills(self, progress: Progress) -> bool:
        begins = round(self.settings.queue_from_epoch * progress.steps_per_epoch)
        return self.settings.queue_length > 0 and progress.step >= begins

    def parameter_groups(self) -> list[ParameterGroup]:
        """The prototypes rest at first; biases and batch norm as the settings say."""
        settings, prototypes = self.settings, list(self.prototypes.parameters())
        network = nn.ModuleList([self.encoder, self.expander])
        others = [p for p in network.parameters() if p.requires_grad]
        groups = [ParameterGroup(others)] if settings.adapt_all else usual_groups(network)
        return [*groups, ParameterGroup(prototypes, rests_steps=settings.rest_steps)]

    def after_step(self, progress: Progress, taken: Tensor) -> None:
        """Prototypes back to unit length, embeddings into the queue in the place of the oldest."""
        weight = self.prototypes.weight
        if progress.step >= self.settings.rest_steps:
            weight.copy_(torch.where(taken, nn.functional.normalize(weight, dim=1), weight))
        if self._fills(progress):
            for queue, own in zip(self.queues, self._assigned, strict=True):
                assert isinstance(queue, KeyQueue)
                queue.push(own, taken)
            self.num_queued += torch.where(taken, self._assigned.shape[1] * distributed.world_size(), 0)


TERMS = {
    "loss": Term("Loss", "Cross-entropy between assignments and their prediction from other views.", "loss", 3),
    **SPREAD,
}


def build(config: PretrainConfig, data: TrainingData) -> Swav:
    """See `MethodFile`."""
    assert isinstance(config.method, Config)
    return Swav(config, config.method)


def networks(config: PretrainConfig) -> str:
    """See `MethodFile`."""
    assert isinstance(config.method, Config)
    return f"{config.model.encoder}, expander {config.model.expander}, {config.method.num_prototypes} prototypes"


def loss_cost(config: PretrainConfig, ranks: int, size: int) -> LossCost:
    """See `MethodFile`."""
    settings = config.method
    assert isinstance(settings, Config)
    total, views = config.train.global_batch, len(config.each_view)
    dims = int(config.model.expander.split("-")[-1])
    only = prototypes_cost(
        total, views, settings.num_assigned, settings.queue_length, settings.num_prototypes, dims, ranks,
        settings.sinkhorn_rounds, size,
    )  # fmt: skip
    own = total // ranks * views * dims * size
    title = f"{total} x {dims} beside {settings.num_prototypes} prototypes"
    return LossCost(title, {"only": only}, 3 * own, ring_sum_bytes(2 * dims * size, ranks), 6 * own)


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
