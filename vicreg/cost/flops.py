"""Arithmetic of the model in a step, and what a device can do at best: together the model FLOP utilisation (MFU).

Counted are the matrix products and convolutions of the method's networks, forward and backward, a multiplication and an
addition apart; not the loss, the augmentation or the optimizer, which are no work of the model.
"""

from __future__ import annotations

import torch

from vicreg.config import PretrainConfig
from vicreg.cost import counted
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
    each = counted.arithmetic(config, data)
    return rows * (each.step + (each.encoders_again if 0 < config.train.micro_batch < rows else 0))


def peak_flops(device: torch.device, precision: str) -> float:
    """What a GPU can do per second at best at a run's precision; 0 where it is not known, as on CPUs."""
    if device.type != "cuda":
        return 0.0
    name = torch.cuda.get_device_name(device)
    known = next((tflops for kind, tflops in PEAK_TFLOPS.items() if kind in name), 0)
    return known * PEAK_SHARES.get(precision, 0.0) * 1e12
