"""MoCo (He et al., CVPR 2020) and MoCo v2 (Chen, Fan, Girshick, He, arXiv 2003.04297): a queue of a teacher's keys."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from vicreg.branches import say_branches
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
from vicreg.losses.contrastive import at_least_float32, contrast_cost, queue_loss, require_temperature
from vicreg.losses.directions import spread_of_directions
from vicreg.losses.forms import NUM_VIEWS
from vicreg.method import Inputs, LossCost, Method, ParameterGroup, Pass, Progress, Published, Term, TrainingData
from vicreg.model import build_model
from vicreg.moving_average import follow, momentum_at, teacher_of
from vicreg.presets import CIFAR10, CIFAR100, SGD, moco_v2_view, solo_learn_cifar
from vicreg.shared_terms import SPREAD

LOSS_PASSES = 10
"""Times that the loss reads or writes an embedding beside its products: lengths, keys, gradients."""


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


class Moco(Method):
    """Queries of a student, keys of a teacher that follows it.

    The official program moves the teacher before it makes the keys of a step. Here it moves after the step before,
    which is the same: in between nothing changes. In the first step both are equal.
    """

    num_views: ClassVar[int] = NUM_VIEWS

    def __init__(self, config: PretrainConfig, settings: Config) -> None:
        super().__init__()
        count = len(config.each_view)
        require(count == self.num_views, "views", f"{count} of an image", f"{self.num_views} for {config.method.name}")
        require(not config.model.encoder_b, "encoder_b", config.model.encoder_b, f"none for {config.method.name}")
        self.settings = settings
        self.encoder, self.expander = build_model(config.model)
        self.teacher = teacher_of(self.student)
        dims, batch = int(config.model.expander.split("-")[-1]), config.train.global_batch
        # The queue of each view that looks for keys.
        self.queues = nn.ModuleList(
            KeyQueue(settings.queue_length, dims, batch) for _ in range(1 + settings.both_directions)
        )
        self._new_keys: list[Tensor] = []

    @property
    def student(self) -> nn.Sequential:
        """Images in, queries out."""
        return nn.Sequential(self.encoder, self.expander)

    @property
    def encoders(self) -> dict[str, nn.Module]:
        """The student's."""
        return {"a": self.encoder}

    def forward(self, inputs: Inputs, progress: Progress) -> dict[str, Tensor]:
        """See `Method`; the terms are `TERMS`."""
        features, queries, found = [], [], []
        self._new_keys = []
        for view, queue in enumerate(self.queues):
            features.append(self.encoder(inputs.views[view]))
            queries.append(self.expander(features[-1]))
            self._new_keys.append(self.keys_of(inputs.views[1 - view]))
            assert isinstance(queue, KeyQueue)
            found.append(queue_loss(queries[-1], self._new_keys[-1], queue.keys, self.settings.temperature))
        terms = {name: torch.stack([each[name] for each in found]).mean() for name in found[0]}
        spread = spread_of_directions(*queries)
        return terms | {"embedding_std": spread, "features": torch.cat([each.detach() for each in features])}

    @torch.no_grad()
    def keys_of(self, images: Tensor) -> Tensor:
        """What the teacher says of images, brought to length 1."""
        return functional.normalize(at_least_float32(self.teacher(images)))

    def after_step(self, progress: Progress, taken: Tensor) -> None:
        """The teacher follows, and the keys take the places of the oldest."""
        momentum = momentum_at(self.settings.momentum, self.settings.final_momentum, progress)
        follow(self.teacher, self.student, momentum, taken)
        for queue, keys in zip(self.queues, self._new_keys, strict=True):
            assert isinstance(queue, KeyQueue)
            queue.push(keys, taken)

    def parameter_groups(self) -> list[ParameterGroup]:
        """Weight decay on all, as in the official program."""
        return [ParameterGroup([*self.encoder.parameters(), *self.expander.parameters()])]

    def passes(self) -> list[Pass]:
        """Each view that looks for a key, and the key of the other one."""
        return [
            way
            for view in range(len(self.queues))
            for way in (Pass(self.student, view), Pass(self.teacher, 1 - view, has_gradient=False))
        ]


TERMS = {
    "loss": Term("Loss", "Cross-entropy of finding an image's key among those of the queue.", "loss", 3),
    "positive_similarity": Term(
        "Similarity of query and key", "Mean cosine between a query and the key of the same image.", "sim", 3
    ),
    **SPREAD,
}


def build(config: PretrainConfig, data: TrainingData) -> Moco:
    """See `MethodFile`."""
    assert isinstance(config.method, Config)
    return Moco(config, config.method)


def networks(config: PretrainConfig) -> str:
    """See `MethodFile`."""
    assert isinstance(config.method, Config)
    return f"{say_branches(config)}, a teacher and its last {config.method.queue_length:,} keys"


def loss_cost(config: PretrainConfig, ranks: int, size: int, queries: int = 1) -> LossCost:
    """See `MethodFile`. `queries` of each image, the same at length 1, keys, two gradients; the queue is a buffer."""
    assert isinstance(config.method, Config)
    rows, length = config.train.global_batch // ranks, config.method.queue_length
    dims = int(config.model.expander.split("-")[-1])
    times = queries + config.method.both_directions
    cost = contrast_cost(times * rows, length, dims, 1, size, twice=False)
    return LossCost(
        title=f"similarities of {config.train.global_batch} x {length}",
        forms={"rows": cost},
        held_bytes=5 * times * rows * dims * size,
        sent_bytes=(ranks - 1) * times * rows * dims * size,  # new keys to everybody's queue
        moved_bytes=times * (LOSS_PASSES * rows + length) * dims * size,
    )


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
