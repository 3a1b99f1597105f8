"""What a pretraining run will take in memory, disk and network, computed from its configuration before anything runs.

Encoder and expander are built without storage and run once on fake tensors, which have shapes and no values. So
every count is that of the model as it is, takes a second or two, and needs neither the memory nor the GPU.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from vicreg.config import PretrainConfig, require
from vicreg.losses.forms import DEFAULT_SPEEDS, NUM_VIEWS, Form, Speeds, cheapest_form, form_costs
from vicreg.model import build_model

MOMENTA = {"lars": 1, "adamw": 2}  # tensors like the parameter that the optimizer keeps for each


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
    """What the forward passes of both views keep for the backward pass, but for the views themselves."""
    loss_form: Form
    """The form of the covariance term that is taken."""
    loss_bytes: int
    """Embeddings, their gradients, the gathered rows and the matrices of the loss, at the most at one time."""
    batch_bytes: int
    """Both views as floating point and as the uint8 that they are made of."""
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


def estimate(config: PretrainConfig, world_size: int, on_gpu: bool, speeds: Speeds | None = None) -> Cost:
    """What a run of `config` on `world_size` ranks, on GPUs or CPUs, will take; traffic is that of ring algorithms.

    speeds: what the form of the loss is chosen by; usual ones where it is None.

    Raises ValueError for ranks that cannot share the global batch equally, and for half precision on CPUs.
    """
    global_batch = config.train.global_batch
    require(world_size >= 1, "world_size", world_size, "1 or more")
    require(global_batch % world_size == 0, "global_batch", global_batch, f"a multiple of the {world_size} ranks")
    weights, half = _dtypes(config.train.precision, on_gpu)
    size = weights.itemsize
    network, embedding = network_without_storage(config, weights)
    rows = global_batch // world_size
    fixed, each = _activations_line(config, half, on_gpu)
    form = config.loss.form
    if form == "auto":
        form = cheapest_form(global_batch, embedding, world_size, speeds or DEFAULT_SPEEDS["cuda" if on_gpu else "cpu"])
    parameters_bytes = sum(p.nbytes for p in network.parameters())
    weights_bytes = parameters_bytes + sum(b.nbytes for b in network.buffers())
    optimizer_bytes = MOMENTA[config.optimizer.name] * parameters_bytes
    values_per_image = NUM_VIEWS * 3 * config.data.image_size**2
    return Cost(
        num_parameters=sum(p.numel() for p in network.parameters()),
        weights_bytes=weights_bytes,
        gradients_bytes=parameters_bytes,
        optimizer_bytes=optimizer_bytes,
        activations_bytes=fixed + rows * each,
        loss_form=form,
        loss_bytes=_loss_bytes(form, rows, embedding, world_size, size),
        batch_bytes=rows * values_per_image * (size + torch.uint8.itemsize),
        checkpoint_bytes=weights_bytes + optimizer_bytes,
        gradient_traffic_bytes=round(_all_reduce(parameters_bytes, world_size)),
        embedding_traffic_bytes=round(_embedding_traffic(form, global_batch, embedding, world_size, size)),
        batch_norm_traffic_bytes=round(_batch_norm_traffic(network, world_size, size, on_gpu)),
    )


def _dtypes(precision: str, on_gpu: bool) -> tuple[torch.dtype, torch.dtype | None]:
    """Type of the weights, and the half-precision type of autocast, if any."""
    if precision == "auto":
        precision = "bf16" if on_gpu else "float32"
    halves = {"bf16": torch.bfloat16, "fp16": torch.float16}
    require(on_gpu or precision not in halves, "precision", precision, "auto, float32, float64 on a CPU")
    return torch.float64 if precision == "float64" else torch.float32, halves.get(precision)


class _WeightsOnMeta(TorchFunctionMode):
    """Layers take their weights from torch.empty, which gives none here; small arithmetic in constructors is real."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.empty:
            return func(*args, **{**(kwargs or {}), "device": "meta"})
        return func(*args, **(kwargs or {}))


@functools.cache
def network_without_storage(config: PretrainConfig, weights: torch.dtype) -> tuple[nn.Module, int]:
    """Encoder and expander on the meta device, and the width of the embedding."""
    with torch.random.fork_rng(devices=[]), _WeightsOnMeta():
        encoder, expander = build_model(config.model)
    network = nn.Sequential(encoder, expander).to("meta", weights).train()
    return network, int(config.model.expander.split("-")[-1])


@functools.cache
def _activations_line(config: PretrainConfig, half: torch.dtype | None, on_gpu: bool) -> tuple[int, int]:
    """Bytes kept for the backward pass of no image (weights cast to half precision), and of each more."""
    network, _ = network_without_storage(config, _dtypes(config.train.precision, on_gpu)[0])
    two, three = (_kept_bytes(network, config, count, half, on_gpu) for count in (2, 3))  # batch norm wants two
    return 3 * two - 2 * three, three - two


def _kept_bytes(network: nn.Module, config: PretrainConfig, rows: int, half: torch.dtype | None, on_gpu: bool) -> int:
    device = torch.device("cuda" if on_gpu else "cpu")
    side = config.data.image_size
    layout = torch.channels_last if config.train.channels_last else torch.contiguous_format
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage  # held, so that no other storage takes its place

    with FakeTensorMode():
        tensors = {
            name: torch.empty(t.shape, dtype=t.dtype, device=device, requires_grad=t.requires_grad)
            for name, t in itertools.chain(network.named_parameters(), network.named_buffers())
        }
        dtype = next(network.parameters()).dtype
        views = [
            torch.empty(rows, 3, side, side, dtype=dtype, device=device, memory_format=layout) for _ in range(NUM_VIEWS)
        ]
        with torch.autograd.graph.saved_tensors_hooks(keep, _never), _autocast(device, half):
            for view in views:
                functional_call(network, tensors, view)
        counted_elsewhere = {t.untyped_storage()._cdata for t in [*tensors.values(), *views]}
        return sum(storage.nbytes() for key, storage in kept.items() if key not in counted_elsewhere)


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


def _loss_bytes(form: Form, rows: int, dims: int, ranks: int, size: int) -> int:
    """The most that `vicreg_loss` holds at one time; `rows` are those of a rank.

    By its second branch there are both embeddings, both gradients and the centred rows: five times rows x dims.
    """
    own = rows * dims * size
    return round(5 * own + form_costs(rows * ranks, dims, ranks, size)[form].memory_bytes)


def _all_reduce(nbytes: float, ranks: int) -> float:
    """What each rank sends when a ring sums a tensor: its part once for the sum and once for the result."""
    return 2 * (ranks - 1) / ranks * nbytes


def _all_gather(total_bytes: float, ranks: int) -> float:
    """What each rank sends when a ring gathers parts of equal size into `total_bytes`."""
    return (ranks - 1) / ranks * total_bytes


def _embedding_traffic(form: Form, global_batch: int, dims: int, ranks: int, size: int) -> float:
    """What a form sends, with sums and variances of each dimension and a few numbers."""
    statistics = NUM_VIEWS * 2 * dims * size
    squares = NUM_VIEWS * torch.float64.itemsize if form == "samples" else 0
    own = form_costs(global_batch, dims, ranks, size)[form].sent_bytes
    return own + _all_reduce(statistics + squares + size, ranks)


def _batch_norm_traffic(network: nn.Module, ranks: int, size: int, on_gpu: bool) -> float:
    """Forward mean and spread of each channel, backward two sums of gradients, for each view.

    torch's batch norm on GPUs gathers the former with a count, ours on CPUs without.
    """
    channels = [layer.num_features for layer in network.modules() if isinstance(layer, _BatchNorm)]
    forward = _all_gather(ranks * sum(2 * count + on_gpu for count in channels) * size, ranks)
    backward = _all_reduce(2 * sum(channels) * size, ranks)
    return NUM_VIEWS * (forward + backward)
