"""The benchmark of LARS compares like with like: its official loop takes the same step."""

from __future__ import annotations

import io

import torch
from rich.console import Console
from torch import nn

from benchmarks import lars as benchmark
from vicreg.optim.lars import Lars


def test_the_official_loop_takes_the_same_step() -> None:
    torch.manual_seed(0)
    ours = [nn.Parameter(torch.randn(shape, dtype=torch.float64)) for shape in [(5, 4), (5,), (2, 3, 3, 3)]]
    theirs = [nn.Parameter(parameter.detach().clone()) for parameter in ours]
    momenta = [torch.zeros_like(parameter) for parameter in theirs]
    optimizer = Lars(ours, momentum=0.9, weight_decay=1e-6, trust_coefficient=0.001)
    optimizer.param_groups[0]["lr"] = optimizer.param_groups[1]["lr"] = benchmark.RATE
    for _ in range(3):
        for mine, other in zip(ours, theirs, strict=True):
            mine.grad = torch.randn_like(mine)
            other.grad = mine.grad.clone()
        with torch.no_grad():
            benchmark.official_step(theirs, momenta)
        optimizer.step()
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other)


def test_it_measures() -> None:
    written = io.StringIO()
    console = Console(file=written, width=120)
    found = benchmark.ratios(benchmark.Step("resnet18", "16-16", rounds=1), console)
    assert [ratio.target for ratio in found] == [1.0, 2.0]
    assert "official loop" in written.getvalue()
