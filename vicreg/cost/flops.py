"""Arithmetic of the model in a step, and what a device can do at best: together the model FLOP utilisation (MFU).

Counted are the matrix products and convolutions of the method's networks, forward and backward, a multiplication and an
addition apart; not the loss, the augmentation or the optimizer, which are no work of the model.
"""

from __future__ import annotations

import functools

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from vicreg.config import PretrainConfig
from vicreg.cost.empty_views import empty_views, fake_tensors, named
from vicreg.cost.estimate import encoder_passes, method_without_storage
from vicreg.method import UNKNOWN_DATA, TrainingData

PEAK_TFLOPS = {  # dense, of bf16 or fp16 with float32 sums; by NVIDIA's data sheets
    "B200": 2250,
    "H200": 989,
    "H100 PCIe": 756,
    "H100 NVL": 835,
    "H100": 989,
    "A100": 312,
    "A40": 150,
    "A10G": 70,
    "A10": 125,
    "L40S": 362,
    "L4": 121,
    "RTX 4090": 165,
    "RTX 3090": 71,
}
PEAK_SHARES = {"bf16": 1.0, "fp16": 1.0, "auto": 1.0, "float32": 0.5}
"""Of that peak, by the precision of a run: TF32, which PyTorch's convolutions use for float32, has half."""


def step_flops(config: PretrainConfig, rows: int, data: TrainingData = UNKNOWN_DATA) -> float:
    """Floating-point operations of a step on one rank with `rows` images, all views of each."""
    return rows * _flops_per_image(config, data, 0 < config.train.micro_batch < rows)


@functools.cache
def _flops_per_image(config: PretrainConfig, data: TrainingData, in_parts: bool) -> float:
    """in_parts: whether a rank's batch passes the encoders in parts."""
    probe = 2  # batch norm wants more than one image
    method = method_without_storage(config, torch.float32, data)
    with FakeTensorMode(), FlopCounterMode(display=False) as counter:
        fakes = fake_tensors(method, torch.device("cpu"))
        views = empty_views(config, probe, torch.float32, torch.device("cpu"))
        for way in method.passes():
            with torch.set_grad_enabled(way.has_gradient):
                embedding = functional_call(way.network, named(way.network, fakes), views[way.view])
            if way.has_gradient:
                embedding.sum().backward()
        if in_parts:
            for way in encoder_passes(method):  # whose features are computed once more, without a graph
                with torch.no_grad():
                    functional_call(way.network, named(way.network, fakes), views[way.view])
    total: int = counter.get_total_flops()
    return total / probe


def peak_flops(device: torch.device, precision: str) -> float:
    """What a GPU can do per second at best at a run's precision; 0 where it is not known, as on CPUs."""
    if device.type != "cuda":
        return 0.0
    name = torch.cuda.get_device_name(device)
    known = next((tflops for kind, tflops in PEAK_TFLOPS.items() if kind in name), 0)
    return known * PEAK_SHARES.get(precision, 0.0) * 1e12
