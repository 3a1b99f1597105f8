"""Which micro-batch lets a run fit into a device's memory."""

from __future__ import annotations

import dataclasses

from vicreg.config import PretrainConfig
from vicreg.cost.estimate import estimate
from vicreg.method import UNKNOWN_DATA, TrainingData

HEADROOM = 0.9
"""Share of the memory that an estimate may fill: it counts neither workspaces nor fragmentation."""


def fitting_micro_batch(
    config: PretrainConfig, world_size: int, memory_bytes: float, on_gpu: bool, data: TrainingData = UNKNOWN_DATA
) -> int:
    """The largest power of two that fits, below the present one and a rank's part of the batch; 0 where none does."""
    rows = config.train.global_batch // world_size
    size = 1 << ((min(config.train.micro_batch or rows, rows) - 1).bit_length() - 1) if rows > 2 else 0
    while size >= 2:
        tried = dataclasses.replace(
            config, train=dataclasses.replace(config.train, micro_batch=size, joint_views=False)
        )
        if estimate(tried, world_size, on_gpu, data=data).memory_bytes <= HEADROOM * memory_bytes:
            return size
        size //= 2
    return 0


def cure(config: PretrainConfig, world_size: int, memory_bytes: float, on_gpu: bool, data: TrainingData) -> str:
    """What to do where a run does not fit."""
    size = fitting_micro_batch(config, world_size, memory_bytes, on_gpu, data)
    others = "more GPUs, or a smaller --train.global-batch"
    return f"--train.micro-batch {size}, by the estimate, or {others}" if size else others
