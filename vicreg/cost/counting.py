"""What a method's networks are and keep, counted on networks without storage.

They are built with weights that have shapes and no values, and run once on fake tensors. So every number is that of the
model as it is, takes a second or two, and needs neither the memory nor the GPU. What is the same for two passes is
counted once.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.flop_counter import FlopCounterMode

from vicreg import networks
from vicreg.config import PretrainConfig
from vicreg.cost.counts import Arithmetic, Kept, Norms, Sizes
from vicreg.cost.empty_views import empty_views, fake_tensors, named
from vicreg.cost.view_shapes import view_shape
from vicreg.cost.weightless import WeightsOnMeta
from vicreg.method import Method, Pass, TrainingData
from vicreg.model import num_features


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


def sizes(config: PretrainConfig, data: TrainingData) -> Sizes:
    """Parameters, buffers and batch norms."""
    method = method_without_storage(config, torch.float32, data)
    tensors = [*method.parameters(), *method.buffers()]
    return Sizes(
        num_learned=sum(p.numel() for p in method.parameters() if p.requires_grad),
        num_values=sum(t.numel() for t in tensors if t.is_floating_point()),
        other_bytes=sum(t.nbytes for t in tensors if not t.is_floating_point()),
        norms=tuple(_norms(method)),
    )


def _norms(method: Method) -> Iterator[Norms]:
    encoders = {layer for encoder in method.encoders.values() for layer in encoder.modules()}
    found: dict[tuple[bool, bool], list[int]] = {}
    for way in method.passes():
        for layer in way.network.modules():
            if isinstance(layer, _BatchNorm):
                kind = (layer in encoders and way.has_gradient, way.has_gradient)
                found.setdefault(kind, []).append(layer.num_features)
    for kind, channels in found.items():
        yield Norms(*kind, len(channels), sum(channels))


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


def _alike(ways: Iterable[Pass], config: PretrainConfig) -> Iterator[tuple[Pass, int]]:
    """Of passes of views of one shape through one network the first, and how many they are."""
    groups: dict[Any, list[Pass]] = {}
    for way in ways:
        shape = view_shape(config, way.view) if way.view < len(config.each_view) else way.view
        groups.setdefault((id(way.network), shape, way.has_gradient), []).append(way)
    for group in groups.values():
        yield group[0], len(group)


def arithmetic(config: PretrainConfig, data: TrainingData) -> Arithmetic:
    """What a step computes for each sample."""
    rows = 2  # batch norm wants more than one image
    method, cpu = method_without_storage(config, torch.float32, data), torch.device("cpu")
    step = again = 0
    with FakeTensorMode(), FlopCounterMode(display=False) as counter:
        fakes = fake_tensors(method, cpu)
        views = empty_views(config, rows, torch.float32, cpu)

        def counted(way: Pass, has_gradient: bool) -> int:
            before: int = counter.get_total_flops()
            with torch.set_grad_enabled(has_gradient):
                embedding = functional_call(way.network, named(way.network, fakes), views[way.view])
            if has_gradient:
                embedding.sum().backward()
            after: int = counter.get_total_flops()
            return after - before

        for way, count in _alike(method.passes(), config):
            step += count * counted(way, way.has_gradient)
        for way, count in _alike(encoder_passes(method), config):  # features are computed once more, without a graph
            again += count * counted(way, False)
    return Arithmetic(step / rows, again / rows)


def kept(config: PretrainConfig, half: torch.dtype | None, on_gpu: bool, data: TrainingData) -> Kept:
    """What is kept with weights of the configuration's precision and autocast to `half`, if any."""
    weights = torch.float64 if config.train.precision == "float64" else torch.float32
    method = method_without_storage(config, weights, data)
    where = torch.device("cuda" if on_gpu else "cpu")
    ways = list(_alike(method.passes(), config))
    once, again = [way for way, _ in ways], [way for way, count in ways if count > 1]
    found = _kept_bytes(method, config, 2, half, where, [*once, *again])
    two, repeated = found[: len(once)], iter(found[len(once) :])
    three = _kept_bytes(method, config, 3, half, where, once)
    fixed = each = 0
    for (_, count), of_two, of_three in zip(ways, two, three, strict=True):
        of_one = of_three - of_two
        each += count * of_one
        fixed += of_two - 2 * of_one
        if count > 1:  # which finds the weights cast already, and has statistics of its own
            fixed += (count - 1) * (next(repeated) - 2 * of_one)
    encoders = list(_alike(encoder_passes(method), config))
    calls = []
    for way, _ in encoders:
        less, more = (_kept_bytes(method, config, rows, half, where, [way])[0] for rows in (2, 3))
        calls.append(more - less)
    size = (half or weights).itemsize
    return Kept(
        fixed=fixed,
        each=each,
        each_encoder=sum(bytes_ * count for bytes_, (_, count) in zip(calls, encoders, strict=True)),
        each_call=max(calls, default=0),
        each_features=sum(num_features(way.network) * count for way, count in encoders) * size,
    )


def _kept_bytes(
    method: Method,
    config: PretrainConfig,
    rows: int,
    half: torch.dtype | None,
    device: torch.device,
    ways: list[Pass],
) -> list[int]:
    """Of each pass what none before it keeps."""
    kinds = ["image"] * len(config.each_view) + list(config.other_kinds)
    texts = [way for way in ways if kinds[way.view] == "text"]
    others = [way for way in ways if kinds[way.view] != "text"]
    found = _kept_on(device, method, config, rows, half, others)
    cpu = torch.device("cpu")  # a GPU's GRU cannot be asked where there is none
    of_text = _kept_on(cpu, method, config, rows, None, texts)
    return [next(of_text if kinds[way.view] == "text" else found) for way in ways]


def _kept_on(
    device: torch.device,
    method: Method,
    config: PretrainConfig,
    rows: int,
    half: torch.dtype | None,
    ways: list[Pass],
) -> Iterator[int]:
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage  # held, so that no other storage takes its place

    found: list[int] = []
    with FakeTensorMode():
        fakes = fake_tensors(method, device)
        views = empty_views(config, rows, next(method.parameters()).dtype, device)
        elsewhere = {t.untyped_storage()._cdata for t in [*fakes.values(), *views]}
        with torch.autograd.graph.saved_tensors_hooks(keep, _never), _autocast(device, half):
            for way in ways:
                with torch.set_grad_enabled(way.has_gradient), _refusing_sizes(config, views[way.view].shape[-1]):
                    functional_call(way.network, named(way.network, fakes), views[way.view])
                new = sum(storage.nbytes() for key, storage in kept.items() if key not in elsewhere)
                found.append(new - sum(found))
    return iter(found)


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
