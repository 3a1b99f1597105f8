"""Training steps on one GPU: the official program's, eager in fp16, beside ours in the forms that the suite offers.

Part of `benchmarks/gpu.py`. Nothing of the official program is used: its step is written after its description
(autocast in fp16 around model and loss, one view after the other, a D x D covariance, LARS one parameter at a time).
"""

from __future__ import annotations

import copy
import dataclasses
import gc
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.lars import official_step, wait
from benchmarks.loss import official_loss
from vicreg.branches import Branches
from vicreg.config import DataConfig, ModelConfig, PretrainConfig, TrainConfig, each_view, official_views
from vicreg.cost.flops import peak_flops, step_flops
from vicreg.data.batches import Drawn, Sampling
from vicreg.data.device_views import views_on_device
from vicreg.data.planes import Planes
from vicreg.method import Inputs, Progress
from vicreg.methods import vicreg
from vicreg.model import build_model
from vicreg.training.learner import Learner
from vicreg.training.train import choose_algorithms

AT_PEAK = Progress(100, 1000, 10)
"""A step after the warm-up."""
WARM_UP_STEPS = 3


@dataclass(frozen=True)
class Sizes:
    """What is measured."""

    encoder: str = "resnet50"
    expander: str = "8192-8192-8192"
    image_px: int = 224
    photo_px: int = 500
    batches: tuple[int, ...] = (256, 512)
    """Images of a step, two views each."""
    rounds: int = 10
    loss_rows: int = 2048
    loss_dims: int = 8192
    evaluated: int = 8192
    """Photos of an epoch of the linear evaluation."""
    looked_at: tuple[int, int] = (50_000, 10_000)
    """Small images for training and validation, at which an online measurement looks."""
    small_encoder: str = "resnet18"
    small_expander: str = "2048-2048-2048"
    small_batch: int = 256
    """Images of 32 px of a step."""
    small_rounds: int = 100

    def config(self, batch: int, **train: Any) -> PretrainConfig:
        """The run whose steps are measured."""
        return PretrainConfig(
            vicreg.Config(),
            DataConfig(image_size=self.image_px, eval_resize=self.image_px),
            model=ModelConfig(self.encoder, expander=self.expander),
            train=TrainConfig(global_batch=batch, **train),
        )


SMALL = Sizes(
    "resnet10-narrow", "64-64-64", 32, 48, (8, 16), 2, 64, 128, 64, (256, 64), "resnet10-narrow", "64-64-64", 8, 2
)
"""For trying the program out: on a CPU its figures mean nothing."""
FORMS: dict[str, dict[str, Any]] = {
    "ours, eager": {},
    "ours, both views at once": {"joint_views": True},
    "ours, compiled": {"compile": True},
    "ours, compiled, both views at once": {"compile": True, "joint_views": True},
}


class _OfficialLars(torch.optim.Optimizer):
    """The official loop over parameters as an optimizer, which the gradient scaler wants."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        super().__init__(parameters, {})
        self._parameters = parameters
        self._momenta = [torch.zeros_like(parameter) for parameter in parameters]

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # no closure: nothing here evaluates anew
        official_step(self._parameters, self._momenta)


def official_training_step(sizes: Sizes, views: tuple[Tensor, Tensor]) -> tuple[nn.Module, Callable[[], object]]:
    """Encoder and expander, and a step of them as in the official program, fp16 on a GPU."""
    device = views[0].device
    on_gpu = device.type == "cuda"
    torch.manual_seed(0)
    network = nn.Sequential(*build_model(ModelConfig(sizes.encoder, expander=sizes.expander))).to(device)
    optimizer = _OfficialLars(list(network.parameters()))
    scaler = torch.amp.GradScaler(device.type, enabled=on_gpu)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(device.type, torch.float16, enabled=on_gpu):
            loss = official_loss(network(views[0]), network(views[1]))
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()

    return network, step


def make_views(sizes: Sizes, batch: int, device: torch.device, layout: torch.memory_format) -> tuple[Tensor, Tensor]:
    """Two views as the model takes them."""
    shape = (batch, 3, sizes.image_px, sizes.image_px)
    first, second = (torch.randn(shape, device=device).contiguous(memory_format=layout) for _ in range(2))
    return first, second


def _model_alone(learner: Learner, views: tuple[Tensor, Tensor]) -> None:
    """Encoder and expander forward and backward, as a step has them."""
    method = learner.method
    assert isinstance(method, Branches)
    half = learner.dtype in (torch.float16, torch.bfloat16)
    with torch.autocast(learner.device.type, learner.dtype if half else torch.float16, enabled=half):
        inputs = [torch.cat(views)] if method.joint_views else list(views)
        embeddings = [method.expander(method.encoder(images)) for images in inputs]
    torch.autograd.backward(embeddings, [torch.ones_like(embedding) for embedding in embeddings])


def seconds_each(work: Callable[[], object], rounds: int, device: torch.device) -> float:
    """Mean duration once warm; the host may run ahead of the GPU, as in training."""
    for _ in range(WARM_UP_STEPS):
        work()
    wait(device)
    start_s = time.perf_counter()
    for _ in range(rounds):
        work()
    wait(device)
    return (time.perf_counter() - start_s) / rounds


def free(device: torch.device) -> None:
    """Give the memory of what nobody holds any more back, and count the peak anew."""
    gc.collect()
    torch._dynamo.reset()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def measure_steps(sizes: Sizes, batch: int, device: torch.device, forms: tuple[str, ...]) -> list[dict[str, Any]]:
    """A row for the official step and for each of our forms; one that does not run says why."""
    choose_algorithms(deterministic=False)
    rows: list[dict[str, Any]] = []
    for name in ("official, eager fp16", *forms):
        free(device)
        try:
            rows.append({"name": name, "images": batch} | _measure(sizes, batch, device, FORMS.get(name)))
        except Exception as error:  # the others are measured all the same, and the command fails in the end
            rows.append({"name": name, "images": batch, "failed": f"{type(error).__name__}: {error}".splitlines()[0]})
    return rows


def _measure(sizes: Sizes, batch: int, device: torch.device, train: dict[str, Any] | None) -> dict[str, float]:
    config = sizes.config(batch, **(train or {}))
    layout = torch.contiguous_format if train is None else torch.channels_last
    views = make_views(sizes, batch, device, layout)
    found: dict[str, float] = {}
    if train is None:
        found["seconds"] = seconds_each(official_training_step(sizes, views)[1], sizes.rounds, device)
    else:
        learner = Learner.build(config, device)
        labels = torch.zeros(batch, dtype=torch.int64, device=device)
        found["seconds"] = seconds_each(
            lambda: learner.learn(Inputs(views, labels, labels), AT_PEAK), sizes.rounds, device
        )
    if device.type == "cuda":
        found["peak_gb"] = torch.cuda.max_memory_allocated() / 1e9
    if train is not None:
        alone_s = seconds_each(lambda: _model_alone(learner, views), sizes.rounds, device)
        found["outside_model"] = 1 - alone_s / found["seconds"]
    rate = step_flops(config, batch) / found["seconds"]
    peak = peak_flops(device, "bf16")
    return (
        found
        | {"images_s": batch / found["seconds"], "model_tflops": rate / 1e12}
        | ({"mfu": rate / peak} if peak else {})
    )


def photos_on_host(sizes: Sizes, batch: int, device: torch.device) -> list[tuple[Drawn, Planes]]:
    """Two batches as the loader's threads leave them in host memory, pinned for a GPU, with what is drawn for each."""
    px, sides = sizes.photo_px, np.full(2 * batch, sizes.photo_px, np.int64)
    sampling = Sampling(np.arange(2 * batch), each_view(official_views(), sizes.image_px), 0, batch)
    items = []
    for drawn in sampling.draw(0, sampling.places(0), sides, sides):
        luma = torch.randint(256, (batch, px, px), dtype=torch.uint8)
        chroma = torch.randint(256, (batch, 2, px // 2 + 1, px // 2 + 1), dtype=torch.uint8)
        if device.type == "cuda":
            luma, chroma = luma.pin_memory(), chroma.pin_memory()
        items.append((drawn, Planes(luma, chroma, {})))
    return items


def measure_feeding(sizes: Sizes, batch: int, device: torch.device, form: str) -> dict[str, float]:
    """Seconds of a step whose photos come from host memory, whose photos are on the device, whose views are ready."""
    choose_algorithms(deterministic=False)
    free(device)
    learner = Learner.build(sizes.config(batch, **FORMS[form]), device)
    items, labels = photos_on_host(sizes, batch, device), np.zeros(2 * batch, np.int64)
    steps = WARM_UP_STEPS + sizes.rounds

    def run(here: list[tuple[Drawn, Planes]]) -> float:
        def decoded() -> Iterator[tuple[Drawn, Planes]]:
            for number in range(steps):
                yield here[number % len(here)]

        start_s = 0.0
        for number, ready in enumerate(views_on_device(decoded(), device, "bicubic", labels)):
            if number == WARM_UP_STEPS:
                wait(device)
                start_s = time.perf_counter()
            learner.step(ready, AT_PEAK, 0)
        wait(device)
        return (time.perf_counter() - start_s) / sizes.rounds

    from_host = run(items)
    on_device = run([(drawn, planes.to(device)) for drawn, planes in items])
    views = make_views(sizes, batch, device, torch.channels_last)
    truth = torch.zeros(batch, dtype=torch.int64, device=device)
    ready_s = seconds_each(lambda: learner.learn(Inputs(views, truth, truth), AT_PEAK), sizes.rounds, device)
    return {"from_host_s": from_host, "on_device_s": on_device, "views_ready_s": ready_s}


def measure_determinism(sizes: Sizes, batch: int, device: torch.device) -> dict[str, float]:
    """Seconds of a step with and without the deterministic flag, and whether a resumed run then has the same bits."""
    found: dict[str, float] = {}
    for deterministic in (False, True):
        free(device)
        choose_algorithms(deterministic)
        config = sizes.config(batch, deterministic=deterministic)
        learner = Learner.build(config, device)
        views = make_views(sizes, batch, device, torch.channels_last)
        labels = torch.zeros(batch, dtype=torch.int64, device=device)
        name = "deterministic_s" if deterministic else "fastest_s"
        found[name] = seconds_each(lambda: learner.learn(Inputs(views, labels, labels), AT_PEAK), sizes.rounds, device)  # noqa: B023
    state = copy.deepcopy(learner.state())
    whole = _trained(learner, views, labels)
    again = Learner.build(config, device)
    again.load(state)
    found["same_bits"] = float(
        all(torch.equal(a, b) for a, b in zip(whole, _trained(again, views, labels), strict=True))
    )
    choose_algorithms(deterministic=False)
    return found


def _trained(learner: Learner, views: tuple[Tensor, Tensor], labels: Tensor) -> list[Tensor]:
    for step in range(3):
        learner.learn(Inputs(views, labels, labels), dataclasses.replace(AT_PEAK, step=AT_PEAK.step + step))
    return list(learner.method.state_dict().values())
