"""Some steps of a method on a few made-up images, for what can be seen from outside of it."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from vicreg import methods
from vicreg.config import PretrainConfig
from vicreg.method import Inputs, Progress, TrainingData
from vicreg.training.learner import Learner

BATCH, NUM_STEPS = 8, 10


def small(recipe: str, method: str, *, optimizer: dict[str, Any] | None = None, **settings: Any) -> PretrainConfig:
    """A method's recipe in float64 with a narrow encoder, for global batches of 8; settings of the method."""
    config = methods.load(method).RECIPES[recipe].pretrain
    return dataclasses.replace(
        config,
        method=dataclasses.replace(config.method, **settings),
        model=dataclasses.replace(config.model, encoder="resnet10-narrow", expander="24-12"),
        optimizer=dataclasses.replace(config.optimizer, warmup_epochs=0.0, **(optimizer or {})),
        train=dataclasses.replace(config.train, global_batch=BATCH, precision="float64"),
    )


def learner_of(config: PretrainConfig) -> Learner:
    """Ready for steps on the CPU."""
    return Learner.build(config, torch.device("cpu"), TrainingData(BATCH, 2))


def views(step: int, rows: int = BATCH) -> list[Tensor]:
    """Two views of made-up images, alike but not equal."""
    generator = torch.Generator().manual_seed(step)
    images = torch.randn(rows, 3, 16, 16, generator=generator, dtype=torch.float64)
    return [images + 0.3 * torch.randn(images.shape, generator=generator, dtype=torch.float64) for _ in range(2)]


def take(learner: Learner, step: int, rows: int = BATCH, num_steps: int = NUM_STEPS) -> dict[str, float]:
    """One step, on one of ten batches; its terms as numbers."""
    labels = torch.zeros(rows, dtype=torch.int64)
    inputs = Inputs(views(step % NUM_STEPS, rows), labels, labels)
    return learner.report(step, learner.learn(inputs, Progress(step, num_steps, NUM_STEPS)))
