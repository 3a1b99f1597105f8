"""What a pretraining run will take in memory, disk and network, computed from its configuration before anything runs.

The method's networks are built without storage and run once on fake tensors, which have shapes and no values. So every
number is that of the model as it is, takes a second or two, and needs neither the memory nor the GPU.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

from vicreg import networks
from vicreg.config import PretrainConfig, require
from vicreg.cost.empty_views import empty_views, fake_tensors, named
from vicreg.cost.loss_form import form_cost, form_of, loss_cost
from vicreg.cost.weightless import WeightsOnMeta
from vicreg.losses.forms import DEFAULT_SPEEDS, Speeds, ring_sum_bytes
from vicreg.method import UNKNOWN_DATA, Method, Pass, TrainingData
from vicreg.model import num_features

MOMENTA = {"lars": 1, "adamw": 2, "sgd": 1}  # tensors like the parameter that the optimizer keeps for each


@dataclass(frozen=True)
class Cost:
    """Bytes that one rank holds at the peak of a step, sends in a step, and writes as a checkpoint.

    Not in it: what the process holds besides tensors (a CUDA context alone is about half a GB), cuDNN's workspaces and
    reserves, NCCL's buffers, the allocator's fragmentation, gradients on their way through the backward pass, the
    optimizer's temporaries, batches decoded ahead, a data set that `loader = "array"` keeps on the device. `compile`
    may keep fewer activations. Where no GPU is at hand, attention counts as its plain formula, which is more than the
    fused kernels of a GPU keep (a third more for a ViT-B/16); convolutional encoders do not depend on it.
    """

    num_parameters: int
    weights_bytes: int
    """Parameters, and buffers such as running statistics."""
    gradients_bytes: int
    optimizer_bytes: int
    activations_bytes: int
    """What the forward passes of all views keep for the backward pass, but for the views themselves."""
    loss_form: str
    """The form of the loss that is taken."""
    loss_bytes: int
    """Embeddings, their gradients, the gathered rows and the matrices of the loss, at the most at one time."""
    batch_bytes: int
    """All views as floating point and as what they are made of (of RGB uint8, of other channels float32)."""
    checkpoint_bytes: int
    """One checkpoint's tensors; the file adds some hundred bytes for each."""
    gradient_traffic_bytes: int
    embedding_traffic_bytes: int
    batch_norm_traffic_bytes: int

    @property
    def memory_bytes(self) -> int:
        """Expected peak of one rank: the end of the forward pass, when all of these are held at once."""
        model = self.weights_bytes + self.gradients_bytes + self.optimizer_bytes
        return model + self.activations_bytes + self.loss_bytes + self.batch_bytes

    @property
    def traffic_bytes(self) -> int:
        """What one rank sends in one step."""
        return self.gradient_traffic_bytes + self.embedding_traffic_bytes + self.batch_norm_traffic_bytes


def estimate(
    config: PretrainConfig,
    world_size: int,
    on_gpu: bool,
    speeds: Speeds | None = None,
    data: TrainingData = UNKNOWN_DATA,
) -> Cost:
    """What a run of `config` on `world_size` ranks, on GPUs or CPUs, will take; traffic is that of ring algorithms.

    speeds: what the form of the loss is chosen by; usual ones where it is None. data: what a method may need to know of
    them, such as the length of a memory bank.

    Raises ValueError for ranks that cannot share the global batch equally, and for half precision on CPUs.
    """
    global_batch = config.train.global_batch
    require(world_size >= 1, "world_size", world_size, "1 or more")
    require(global_batch % world_size == 0, "global_batch", global_batch, f"a multiple of the {world_size} ranks")
    weights, half = _dtypes(config.train.precision, on_gpu)
    size = weights.itemsize
    whole = replace(config, train=replace(config.train, micro_batch=0))  # what a network keeps is cached by this
    method = method_without_storage(whole, weights, data)
    rows = global_batch // world_size
    num_parts = -(-rows // config.train.micro_batch) if config.train.micro_batch else 1
    kept = _kept_activations(whole, half, on_gpu, data)
    speeds = speeds or DEFAULT_SPEEDS["cuda" if on_gpu else "cpu"]
    loss, form = loss_cost(config, world_size, size), form_cost(config, world_size, speeds, size)
    learned_bytes = sum(p.nbytes for p in learned_parameters(method))
    weights_bytes = sum(t.nbytes for t in [*method.parameters(), *method.buffers()])
    optimizer_bytes = MOMENTA[config.optimizer.name] * learned_bytes
    views = empty_views(config, rows, weights, torch.device("meta"))
    values_per_image = sum(view[0].numel() for view in views[: len(config.each_view)])
    others = sum(view.nbytes for view in views[len(config.each_view) :])
    return Cost(
        num_parameters=sum(p.numel() for p in learned_parameters(method)),
        weights_bytes=weights_bytes,
        gradients_bytes=learned_bytes,
        optimizer_bytes=optimizer_bytes,
        activations_bytes=kept.peak_bytes(rows, config.train.micro_batch),
        loss_form=form_of(config, world_size, speeds),
        loss_bytes=round(loss.held_bytes + form.memory_bytes),
        batch_bytes=rows * values_per_image * (size + (4 if config.model.channels else 1)) + others,
        checkpoint_bytes=weights_bytes + optimizer_bytes,
        gradient_traffic_bytes=round(ring_sum_bytes(learned_bytes, world_size)),
        embedding_traffic_bytes=round(loss.sent_bytes + form.sent_bytes),
        batch_norm_traffic_bytes=round(_batch_norm_traffic(method, world_size, size, on_gpu, num_parts)),
    )


def _dtypes(precision: str, on_gpu: bool) -> tuple[torch.dtype, torch.dtype | None]:
    """Type of the weights, and the half-precision type of autocast, if any."""
    if precision == "auto":
        precision = "bf16" if on_gpu else "float32"
    halves = {"bf16": torch.bfloat16, "fp16": torch.float16}
    require(on_gpu or precision not in halves, "precision", precision, "auto, float32, float64 on a CPU")
    return torch.float64 if precision == "float64" else torch.float32, halves.get(precision)


@functools.cache
def method_without_storage(config: PretrainConfig, weights: torch.dtype, data: TrainingData) -> Method:
    """The method on the meta device; what it does not learn needs no gradient."""
    with torch.random.fork_rng(devices=[]), WeightsOnMeta():
        method = networks.build(config, data)
    method.to("meta", weights).train()
    learned = {parameter for group in method.parameter_groups() for parameter in group.parameters}
    for parameter in method.parameters():
        parameter.requires_grad_(parameter in learned)
    return method


def learned_parameters(method: Method) -> list[nn.Parameter]:
    """Those that have a gradient."""
    return [parameter for parameter in method.parameters() if parameter.requires_grad]


@dataclass(frozen=True)
class _Kept:
    """Bytes that are kept for the backward pass."""

    fixed: int
    """Of no image: weights cast to half precision."""
    each: int
    """Of each image, all views through all networks."""
    each_encoder: int
    """The part of it that the encoders keep."""
    each_call: int
    """The part of that of the call of an encoder that keeps most."""
    each_features: int
    """Features of each image, all views."""

    def peak_bytes(self, rows: int, micro_batch: int) -> int:
        """Of a step on `rows` images, where encoders take `micro_batch` of them at once; 0: all."""
        if not 0 < micro_batch < rows:
            return self.fixed + rows * self.each
        behind = rows * (self.each - self.each_encoder)  # gone when the parts pass for the second time
        return self.fixed + 2 * rows * self.each_features + max(behind, micro_batch * self.each_call)


@functools.cache
def _kept_activations(config: PretrainConfig, half: torch.dtype | None, on_gpu: bool, data: TrainingData) -> _Kept:
    method = method_without_storage(config, _dtypes(config.train.precision, on_gpu)[0], data)
    two, three = (
        _kept_bytes(method, config, count, half, on_gpu, method.passes()) for count in (2, 3)
    )  # batch norm wants two
    encoders = encoder_passes(method)
    calls = [[_kept_bytes(method, config, count, half, on_gpu, [way]) for count in (2, 3)] for way in encoders]
    of_call = [three - two for two, three in calls]
    size = (half or next(method.parameters()).dtype).itemsize
    features = sum(num_features(way.network) for way in encoders) * size
    return _Kept(3 * two - 2 * three, three - two, sum(of_call), max(of_call, default=0), features)


def encoder_passes(method: Method) -> list[Pass]:
    """The encoders' parts of the passes that have a gradient: what micro-batches pass twice."""
    encoders = list(method.encoders.values())
    return [
        Pass(encoder, way.view)
        for way in method.passes()
        if way.has_gradient
        for encoder in encoders
        if any(module is encoder for module in way.network.modules())
    ]


def _kept_bytes(
    method: Method, config: PretrainConfig, rows: int, half: torch.dtype | None, on_gpu: bool, passes: list[Pass]
) -> int:
    kinds = ["image"] * len(config.each_view) + list(config.other_kinds)
    of_text = [way for way in passes if kinds[way.view] == "text"]
    others = [way for way in passes if kinds[way.view] != "text"]
    cpu, device = torch.device("cpu"), torch.device("cuda" if on_gpu else "cpu")
    kept = _kept_on(device, method, config, rows, half, others)
    return kept + _kept_on(cpu, method, config, rows, None, of_text)  # a GPU's GRU cannot be asked where there is none


def _kept_on(
    device: torch.device,
    method: Method,
    config: PretrainConfig,
    rows: int,
    half: torch.dtype | None,
    passes: list[Pass],
) -> int:
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage  # held, so that no other storage takes its place

    with FakeTensorMode():
        fakes = fake_tensors(method, device)
        dtype = next(method.parameters()).dtype
        views = empty_views(config, rows, dtype, device)
        with torch.autograd.graph.saved_tensors_hooks(keep, _never), _autocast(device, half):
            for way in passes:
                with torch.set_grad_enabled(way.has_gradient), _refusing_sizes(config, views[way.view].shape[-1]):
                    functional_call(way.network, named(way.network, fakes), views[way.view])
        counted_elsewhere = {t.untyped_storage()._cdata for t in [*fakes.values(), *views]}
        return sum(storage.nbytes() for key, storage in kept.items() if key not in counted_elsewhere)


@contextmanager
def _refusing_sizes(config: PretrainConfig, side: int) -> Iterator[None]:
    """A network's assertion on the size of its images as an error that a user can do something about."""
    try:
        yield
    except AssertionError as error:
        encoder = " or ".join(filter(None, (config.model.encoder, config.model.encoder_b)))
        raise ValueError(
            f"encoder {encoder} does not take images of {side} px ({error}); allowed: --data.image-size (and views) of "
            "the size that it is made for, or another --model.encoder (timm's ViTs take any multiple of their patches)"
        ) from error


def _never(packed: Any) -> Tensor:
    raise AssertionError("there is no backward pass")


@contextmanager
def _autocast(device: torch.device, half: torch.dtype | None) -> Iterator[None]:
    """As torch.autocast, which would refuse the GPU's rules on a machine that has none."""
    if half is None:
        yield
        return
    before = torch.is_autocast_enabled(device.type), torch.get_autocast_dtype(device.type)
    torch.set_autocast_enabled(device.type, True)
    torch.set_autocast_dtype(device.type, half)
    torch.autocast_increment_nesting()
    try:
        yield
    finally:
        if torch.autocast_decrement_nesting() == 0:
            torch.clear_autocast_cache()
        torch.set_autocast_enabled(device.type, before[0])
        torch.set_autocast_dtype(device.type, before[1])


def _all_gather(total_bytes: float, ranks: int) -> float:
    """What each rank sends when a ring gathers parts of equal size into `total_bytes`."""
    return (ranks - 1) / ranks * total_bytes


def _batch_norm_traffic(method: Method, ranks: int, size: int, on_gpu: bool, num_parts: int) -> float:
    """Forward mean and spread of each channel, backward two sums of gradients, for each view.

    torch's batch norm on GPUs gathers the former with a count, ours on CPUs without. In an encoder whose images pass in
    several parts for each of these, and forward twice.
    """
    in_parts = {layer for encoder in method.encoders.values() for layer in encoder.modules()}
    sent = 0.0
    for way in method.passes():
        for layer in way.network.modules():
            if isinstance(layer, _BatchNorm):
                parts = num_parts if layer in in_parts and way.has_gradient else 1
                forward = _all_gather(ranks * (2 * layer.num_features + on_gpu) * size, ranks)
                backward = ring_sum_bytes(2 * layer.num_features * size, ranks) if way.has_gradient else 0.0
                sent += parts * ((2 if parts > 1 else 1) * forward + backward)
    return sent
