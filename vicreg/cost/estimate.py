"""What a pretraining run will take in memory, disk and network, computed from its configuration before anything runs.

It follows from the sizes of the networks and what they keep (`counted.py`), and needs neither the memory nor the GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from vicreg.config import PretrainConfig, require
from vicreg.cost import counted
from vicreg.cost.counts import Norms
from vicreg.cost.empty_views import empty_views
from vicreg.cost.loss_form import form_cost, form_of, loss_cost
from vicreg.losses.forms import DEFAULT_SPEEDS, Speeds, ring_sum_bytes
from vicreg.method import UNKNOWN_DATA, TrainingData

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
    networks = counted.sizes(config, data)
    rows = global_batch // world_size
    num_parts = -(-rows // config.train.micro_batch) if config.train.micro_batch else 1
    kept = counted.kept(config, half, on_gpu, data)
    speeds = speeds or DEFAULT_SPEEDS["cuda" if on_gpu else "cpu"]
    loss, form = loss_cost(config, world_size, size), form_cost(config, world_size, speeds, size)
    learned_bytes = networks.num_learned * size
    weights_bytes = networks.num_values * size + networks.other_bytes
    optimizer_bytes = MOMENTA[config.optimizer.name] * learned_bytes
    views = empty_views(config, rows, weights, torch.device("meta"))
    values_per_image = sum(view[0].numel() for view in views[: len(config.each_view)])
    others = sum(view.nbytes for view in views[len(config.each_view) :])
    return Cost(
        num_parameters=networks.num_learned,
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
        batch_norm_traffic_bytes=round(_batch_norm_traffic(networks.norms, world_size, size, on_gpu, num_parts)),
    )


def _dtypes(precision: str, on_gpu: bool) -> tuple[torch.dtype, torch.dtype | None]:
    """Type of the weights, and the half-precision type of autocast, if any."""
    if precision == "auto":
        precision = "bf16" if on_gpu else "float32"
    halves = {"bf16": torch.bfloat16, "fp16": torch.float16}
    require(on_gpu or precision not in halves, "precision", precision, "auto, float32, float64 on a CPU")
    return torch.float64 if precision == "float64" else torch.float32, halves.get(precision)


def _all_gather(total_bytes: float, ranks: int) -> float:
    """What each rank sends when a ring gathers parts of equal size into `total_bytes`."""
    return (ranks - 1) / ranks * total_bytes


def _batch_norm_traffic(norms: Sequence[Norms], ranks: int, size: int, on_gpu: bool, num_parts: int) -> float:
    """Forward mean and spread of each channel, backward two sums of gradients, for each view.

    torch's batch norm on GPUs gathers the former with a count, ours on CPUs without. In an encoder whose images pass in
    several parts for each of these, and forward twice.
    """
    sent = 0.0
    for norm in norms:
        parts = num_parts if norm.in_parts else 1
        forward = _all_gather(ranks * (2 * norm.num_channels + on_gpu * norm.num_layers) * size, ranks)
        backward = ring_sum_bytes(2 * norm.num_channels * size, ranks) if norm.has_gradient else 0.0
        sent += parts * ((2 if parts > 1 else 1) * forward + backward)
    return sent
