"""A training step on a GPU, without one: tensors that have a device and a shape but no values.

Whatever would ask the GPU for a value, and so wait for it, fails here; so does what lies on the wrong device. The
backward pass is the one thing left out: torch's engine wants a real GPU.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vicreg import kernels, methods, networks
from vicreg.config import (
    DataConfig,
    ModelConfig,
    OnlineConfig,
    OptimizerConfig,
    PretrainConfig,
    TrainConfig,
)
from vicreg.data.batches import Sampling, crop_on_device
from vicreg.data.device_images import Chosen, DeviceImages
from vicreg.data.planes import Planes
from vicreg.method import Method, Progress, TrainingData
from vicreg.methods import vicreg
from vicreg.training.captured_step import CapturedStep
from vicreg.training.learner import Learner
from vicreg.views import drawn_in_torch
from vicreg.views.colour_operations import by_channel

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
        for without_form in ("_fused_sgd_", "_fused_adamw_"):  # for tensors without values
            stack.enter_context(patch.object(torch, without_form, lambda *_, **__: None))
        for kept in (by_channel, drawn_in_torch._jitter_orders):  # on the device, which ends with the test
            stack.callback(kept.cache_clear)
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


class _NothingFromTheHost(TorchDispatchMode):
    """Refuses what brings a tensor from the host to the GPU, or back."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        made = func(*args, **(kwargs or {}))
        devices = {leaf.device.type for leaf in (*given, *tree_leaves(made)) if isinstance(leaf, Tensor)}
        if "cpu" in devices:
            raise AssertionError(f"{func} has tensors on {sorted(devices)}")
        return made


def _on_gpu(config: PretrainConfig) -> DeviceImages:
    places = torch.zeros(BATCH, dtype=torch.int64, device=GPU)
    images = torch.zeros((BATCH, 3, 36, 36), dtype=torch.uint8, device=GPU)
    return DeviceImages(images, places, places, config.each_view, 0, "bicubic")


UNRECORDABLE = {"byol", "cmc", "cpc_v2", "infomin", "moco_v2", "pirl", "sigreg", "swav"}
"""Methods whose steps depend on their number."""


@pytest.mark.parametrize(
    ("method", "optimizer", "precision"),
    [(method, "lars", "bf16") for method in sorted(set(methods.names()) - UNRECORDABLE)]
    + [("vicreg", "adamw", "fp16"), ("vicreg", "sgd", "bf16")],
)
def test_a_step_on_what_lies_on_the_gpu_takes_nothing_from_the_host(
    method: str, optimizer: Any, precision: Any
) -> None:
    config = dataclasses.replace(
        CONFIG,
        method=methods.load(method).Config(),
        optimizer=OptimizerConfig(name=optimizer, clip_lr=optimizer == "lars"),
        train=dataclasses.replace(CONFIG.train, precision=precision),
    )
    learner = Learner.build(config, GPU, TrainingData(BATCH, 10))
    assert not learner.method.follows_progress
    assert not any(group["rests_steps"] for group in learner.optimizer.param_groups)
    forward = learner.method.forward
    learner.method.forward = lambda inputs, _: forward(inputs, None)  # it would fail if it asked where the run is
    learner.scaler.unscale_ = learner.scaler.update = lambda *_: None  # they want gradients that are whole
    images, steps = _on_gpu(config), CapturedStep(learner)
    steps._unrecorded = -1  # a pretended GPU has no graphs
    chosen = Chosen(images, torch.zeros(BATCH, dtype=torch.int64), torch.zeros_like(images.rows), 3)
    steps.step(chosen, Progress(0, 10, 1), 0)  # brings there what stays there
    learner.prepare(Progress(1, 10, 1), 0)
    with _NothingFromTheHost():
        terms = steps._take(chosen, Progress(1, 10, 1))
    assert all(term.device == GPU for term in terms.values())


@pytest.mark.parametrize("method", sorted(UNRECORDABLE))
def test_methods_that_are_told_their_step_say_so(method: str) -> None:
    file = networks.load(method)
    (network,) = (
        kind
        for kind in vars(file).values()
        if inspect.isclass(kind) and issubclass(kind, Method) and kind.__module__ == file.__name__
    )
    assert network.follows_progress


def test_what_the_host_brings_is_found() -> None:
    with _NothingFromTheHost(), pytest.raises(AssertionError, match="cpu"):
        torch.tensor([1.0], device=GPU)


def test_asking_is_what_fails() -> None:
    learner, terms = _step(CONFIG)
    with pytest.raises(DataDependentOutputException):
        learner.guard.check(0, terms)
