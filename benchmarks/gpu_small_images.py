"""Steps on small images that lie on the GPU: as the host draws them, as the device does, and as one CUDA graph.

Part of `benchmarks/gpu.py`: recipe `cifar10` with its online head, on 50,000 images of noise.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.gpu_step import AT_PEAK, WARM_UP_STEPS, Sizes, free
from benchmarks.lars import wait
from vicreg.config import PretrainConfig
from vicreg.data.batches import Sampling, crop_on_device
from vicreg.data.device_images import Chosen, DeviceImages
from vicreg.method import TrainingData
from vicreg.methods import vicreg
from vicreg.training.captured_step import UNRECORDED_STEPS, CapturedStep
from vicreg.training.learner import Learner
from vicreg.training.train import choose_algorithms

EPOCH_IMAGES, NUM_CLASSES = 50_000, 10
AS_BEFORE, RECORDED = "drawn in numpy, launched one by one", "recorded"
FORMS: dict[str, dict[str, Any]] = {
    AS_BEFORE: {},
    "drawn on the device, launched one by one": {},
    RECORDED: {},
    "recorded, compiled, both views at once": {"compile": True, "joint_views": True},
}
Step = Callable[[], dict[str, Tensor]]


def config(sizes: Sizes, **train: Any) -> PretrainConfig:
    """The recipe, with the network and batch of `sizes`."""
    recipe = vicreg.RECIPES["cifar10"].pretrain
    model = replace(recipe.model, encoder=sizes.small_encoder, expander=sizes.small_expander)
    return replace(recipe, model=model, train=replace(recipe.train, global_batch=sizes.small_batch, **train))


def _batches(settings: PretrainConfig, device: torch.device) -> Iterator[tuple[Chosen, Any]]:
    """Batches of which nothing is made yet, and the same as the host draws them, when it is asked to."""
    px, batch = settings.data.image_size, settings.train.global_batch
    count = 8 * batch
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (count, 3, px, px), dtype=torch.uint8, generator=generator).to(device)
    labels = np.arange(count) % NUM_CLASSES
    rows = torch.arange(count, device=device)
    source = DeviceImages(images, rows, torch.from_numpy(labels).to(device), settings.each_view, 0, "bicubic")
    sampling, sides = Sampling(np.arange(count), settings.each_view, 0, batch), np.full(count, px)

    def drawn(epoch: int, row: Any) -> Any:
        planned = next(sampling.draw(epoch, row[None], sides, sides))
        places = torch.from_numpy(planned.samples).to(device, non_blocking=True)
        return planned.batch(crop_on_device(images[places], planned, "bicubic"), labels).to(device)

    epoch = 0
    while True:
        places = sampling.places(epoch)
        for row, sent in zip(places, torch.from_numpy(places).to(device), strict=True):
            yield Chosen(source, torch.from_numpy(row), sent, epoch), lambda row=row, epoch=epoch: drawn(epoch, row)
        epoch += 1


def stepper(settings: PretrainConfig, form: str, device: torch.device) -> tuple[Learner, Step]:
    """A learner, and a function that takes its next step in that form."""
    learner = Learner.build(settings, device, TrainingData(EPOCH_IMAGES, NUM_CLASSES))
    batches, recorded, number = _batches(settings, device), CapturedStep(learner), 0

    def step() -> dict[str, Tensor]:
        nonlocal number
        chosen, drawn = next(batches)
        progress = replace(AT_PEAK, step=AT_PEAK.step + number)
        number += 1
        if form.startswith(RECORDED):
            return recorded.step(chosen, progress, 0)
        return learner.step(drawn() if form == AS_BEFORE else chosen.made(), progress, 0)

    return learner, step


def measure(sizes: Sizes, device: torch.device) -> list[dict[str, Any]]:
    """For each form: seconds of a step, and how long the host is busy with one; one that does not run says why."""
    choose_algorithms(deterministic=False)
    rows: list[dict[str, Any]] = []
    for name, train in FORMS.items():
        free(device)
        try:
            rows.append({"name": name} | _measure(config(sizes, **train), name, sizes.small_rounds, device))
        except Exception as error:  # the others are measured all the same, and the command fails in the end
            rows.append({"name": name, "failed": f"{type(error).__name__}: {error}".splitlines()[0]})
    return rows


def _measure(settings: PretrainConfig, form: str, rounds: int, device: torch.device) -> dict[str, float]:
    _, step = stepper(settings, form, device)
    for _ in range(WARM_UP_STEPS + UNRECORDED_STEPS):
        step()
    wait(device)
    start_s = time.perf_counter()
    for _ in range(rounds):
        step()
    host_s = (time.perf_counter() - start_s) / rounds
    wait(device)
    step_s = (time.perf_counter() - start_s) / rounds
    return {
        "seconds": step_s,
        "host_seconds": host_s,
        "epoch_seconds": step_s * (EPOCH_IMAGES // settings.train.global_batch),
        "images_s": settings.train.global_batch / step_s,
    } | ({"peak_gb": torch.cuda.max_memory_allocated() / 1e9} if device.type == "cuda" else {})


def same_bits(sizes: Sizes, device: torch.device) -> bool:
    """Whether a recorded run has the bits of one that the host draws, with the deterministic flag."""
    choose_algorithms(deterministic=True)
    states = []
    for form in (AS_BEFORE, RECORDED):
        free(device)
        learner, step = stepper(config(sizes, deterministic=True), form, device)
        for _ in range(UNRECORDED_STEPS + 5):
            step()
        states.append([value.cpu() for value in learner.method.state_dict().values()])
    choose_algorithms(deterministic=False)
    return all(torch.equal(mine, theirs) for mine, theirs in zip(*states, strict=True))
