"""A training step on a GPU, without one: tensors that have a device and a shape but no values.

Whatever would ask the GPU for a value, and so wait for it, fails here; so does what lies on the wrong device. The
backward pass is the one thing left out: torch's engine wants a real GPU.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from vicreg import kernels
from vicreg.config import (
    DataConfig,
    ModelConfig,
    OnlineConfig,
    OptimizerConfig,
    PretrainConfig,
    TrainConfig,
)
from vicreg.data.batches import Sampling, crop_on_device
from vicreg.data.planes import Planes
from vicreg.method import Progress, TrainingData
from vicreg.methods import vicreg
from vicreg.training.learner import Learner

GPU = torch.device("cuda", 0)
BATCH, PHOTO_PX = 8, 48
CONFIG = PretrainConfig(
    vicreg.Config(),
    DataConfig(image_size=32, eval_resize=32),
    model=ModelConfig("resnet18", small_images=True, expander="64-64-64"),
    train=TrainConfig(global_batch=BATCH),
    online=OnlineConfig(every_epochs=1),
)


def _to(module: nn.Module, *wanted: Any, **layout: Any) -> nn.Module:
    """nn.Module.to, which cannot exchange parameters without values."""
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None and (parameter.ndim == 4 or not layout):
                part._parameters[name] = nn.Parameter(parameter.detach().to(*wanted, **layout))
        for name, buffer in part._buffers.items():
            if buffer is not None and not layout:
                part._buffers[name] = buffer.to(GPU)
    return module


@pytest.fixture(autouse=True)
def _pretended_gpu() -> Iterator[None]:
    with ExitStack() as stack:
        stack.enter_context(patch.object(nn.Module, "to", _to))
        stack.enter_context(patch.object(Tensor, "backward", lambda loss: None))
        stack.enter_context(patch.object(kernels, "load", lambda name, device: None))
        stack.enter_context(patch.object(torch, "_fused_sgd_", lambda *_, **__: None))  # has no form without values
        stack.enter_context(patch("torch.cuda.amp.common.amp_definitely_not_available", lambda: False))
        stack.enter_context(patch("torch.cuda.is_bf16_supported", lambda: True))
        stack.enter_context(patch("torch.cuda.get_device_capability", lambda device: (9, 0)))
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        yield


def _step(config: PretrainConfig) -> tuple[Learner, dict[str, Tensor]]:
    """A step from planes as they come from the host."""
    learner = Learner.build(config, GPU, TrainingData(BATCH, 10))
    sampling, sides = Sampling(np.arange(BATCH), config.each_view, 0, BATCH), np.full(BATCH, PHOTO_PX)
    drawn = next(sampling.draw(0, sampling.places(0), sides, sides))
    half = PHOTO_PX // 2 + 1
    planes = Planes(
        torch.empty((BATCH, PHOTO_PX, PHOTO_PX), dtype=torch.uint8),
        torch.empty((BATCH, 2, half, half), dtype=torch.uint8),
        {3: torch.empty((PHOTO_PX, PHOTO_PX, 3), dtype=torch.uint8)},
    )
    views = crop_on_device(planes.to(GPU).rgb(), drawn, "bicubic")
    batch = drawn.batch(views, np.zeros(BATCH, np.int64)).to(GPU)
    return learner, learner.step(batch, Progress(0, 10, 1), 0)


@pytest.mark.parametrize("optimizer", ["lars", "adamw", "sgd"])
@pytest.mark.parametrize("joint_views", [False, True])
@pytest.mark.parametrize("form", ["samples", "dimensions", "features"])
def test_a_step_asks_the_gpu_for_nothing(optimizer: Any, joint_views: bool, form: Any) -> None:
    config = dataclasses.replace(
        CONFIG,
        method=vicreg.Config(form=form),
        optimizer=OptimizerConfig(name=optimizer),
        train=dataclasses.replace(CONFIG.train, joint_views=joint_views),
    )
    learner, terms = _step(config)
    assert learner.dtype == torch.bfloat16
    assert all(term.device == GPU and term.dtype == torch.float32 for term in terms.values())


def test_asking_is_what_fails() -> None:
    learner, terms = _step(CONFIG)
    with pytest.raises(DataDependentOutputException):
        learner.guard.check(0, terms)
