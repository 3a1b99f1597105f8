"""MoCo (He et al., CVPR 2020) and MoCo v2 (Chen, Fan, Girshick, He, arXiv 2003.04297): a queue of a teacher's keys."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from vicreg.branches import say_branches
from vicreg.config import (
    PretrainConfig,
    require,
)
from vicreg.key_queue import KeyQueue
from vicreg.losses.contrastive import at_least_float32, contrast_cost, queue_loss
from vicreg.losses.directions import spread_of_directions
from vicreg.losses.forms import NUM_VIEWS
from vicreg.method import Inputs, LossCost, Method, ParameterGroup, Pass, Progress, TrainingData
from vicreg.methods.moco_v2 import Config
from vicreg.model import build_model
from vicreg.moving_average import follow, momentum_at, teacher_of

LOSS_PASSES = 10
"""Times that the loss reads or writes an embedding beside its products: lengths, keys, gradients."""


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
