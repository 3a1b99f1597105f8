"""A step's arithmetic against the published count of ResNet-50, and by hand."""

from __future__ import annotations

import pytest
import torch

from vicreg.config import DataConfig, ModelConfig, PretrainConfig
from vicreg.cost.flops import peak_flops, step_flops
from vicreg.methods import vicreg


def test_resnet50_is_as_published() -> None:
    """4.09 GMAC forward at 224 px by torchvision's table, a classifier of 2 MMAC included; backward twice as much.

    But the first layer has no gradient towards its input: 118 MMAC less.
    """
    config = PretrainConfig(vicreg.Config(), model=ModelConfig(expander="1"))
    forward = 4.09e9 - 2.048e6
    expected = 2 * 2 * (3 * forward - 118e6)  # two views, two operations for each
    assert step_flops(config, 1) == pytest.approx(expected, rel=0.002)
    assert step_flops(config, 64) == 64 * step_flops(config, 1)


def test_the_expander_counts() -> None:
    sizes = DataConfig(image_size=32, eval_resize=32)
    one, two = (
        PretrainConfig(vicreg.Config(), sizes, model=ModelConfig("resnet18", True, text))
        for text in ("8192", "8192-4096")
    )
    assert step_flops(two, 1) - step_flops(one, 1) == 2 * 2 * 3 * 8192 * 4096


def test_the_peak_is_that_of_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = torch.device("cuda")
    for name, peak in (("NVIDIA H200", 989e12), ("NVIDIA A100-SXM4-80GB", 312e12), ("NVIDIA H100 PCIe", 756e12)):
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device, name=name: name)
        assert peak_flops(gpu, "bf16") == peak_flops(gpu, "auto") == peak
        assert peak_flops(gpu, "float32") == peak / 2
        assert peak_flops(gpu, "float64") == 0
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Some other GPU")
    assert peak_flops(gpu, "bf16") == 0
    assert peak_flops(torch.device("cpu"), "float32") == 0
