"""What fits is the largest that does, and a full GPU is told so."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console

from vicreg.config import ModelConfig, PretrainConfig, TrainConfig
from vicreg.cost.estimate import estimate
from vicreg.cost.fitting import HEADROOM, fitting_micro_batch
from vicreg.methods import vicreg
from vicreg.ranks.distributed import Placement
from vicreg.training import train as training
from vicreg.training.learner import Learner

CONFIG = PretrainConfig(
    vicreg.Config(), model=ModelConfig("resnet18", True, "32-32"), train=TrainConfig(global_batch=256)
)


def _memory(micro_batch: int, config: PretrainConfig = CONFIG) -> int:
    train = dataclasses.replace(config.train, micro_batch=micro_batch)
    return estimate(dataclasses.replace(config, train=train), 2, on_gpu=True).memory_bytes


@pytest.mark.parametrize("expected", [64, 32, 16, 2])
def test_the_largest_that_fits(expected: int) -> None:
    assert fitting_micro_batch(CONFIG, 2, _memory(expected) / HEADROOM, on_gpu=True) == expected
    halved = dataclasses.replace(CONFIG, train=dataclasses.replace(CONFIG.train, micro_batch=32))
    assert fitting_micro_batch(halved, 2, 1e12, on_gpu=True) == 16


def test_nothing_fits() -> None:
    assert fitting_micro_batch(CONFIG, 2, 1e6, on_gpu=True) == 0


def test_a_full_gpu_is_told_what_fits(digits_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = SimpleNamespace(total_memory=_memory(32, CONFIG) / HEADROOM)

    def full(*_arguments: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(Learner, "step", full)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: memory)
    data = dataclasses.replace(
        CONFIG.data, train=str(digits_folder / "train.beton"), val="", image_size=32, eval_resize=32
    )
    config = dataclasses.replace(CONFIG, data=data, train=dataclasses.replace(CONFIG.train, global_batch=128))
    with pytest.raises(training.GpuFull, match=r"128 images on each GPU of .* --train.micro-batch (32|64), .*2.00 GiB"):
        training.train(config, tmp_path, Placement(0, 1), lambda step: False, Console(quiet=True))
