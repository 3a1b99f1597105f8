"""The benchmark of the loss compares like with like, and measures what it says."""

from __future__ import annotations

import io

import pytest
import torch
from rich.console import Console

from benchmarks import loss as benchmark
from vicreg.losses.barlow_twins import barlow_twins_loss
from vicreg.losses.settings import BarlowTwinsLossConfig
from vicreg.losses.settings import VicregLossConfig as LossConfig
from vicreg.losses.vicreg import vicreg_loss

CPU = torch.device("cpu")


def test_the_official_formula_is_the_same_loss() -> None:
    inputs = benchmark.embeddings(12, 20, CPU)
    theirs, ours = benchmark.official_loss(*inputs), vicreg_loss(*inputs, LossConfig())["loss"]
    torch.testing.assert_close(ours, theirs)
    for mine, other in zip(torch.autograd.grad(ours, inputs), torch.autograd.grad(theirs, inputs), strict=True):
        torch.testing.assert_close(mine, other)


def test_the_official_formula_of_barlow_twins_is_the_same_loss() -> None:
    inputs = benchmark.embeddings(12, 20, CPU)
    ours = barlow_twins_loss(*inputs, BarlowTwinsLossConfig(loss_scale=1.0))["loss"]
    theirs = benchmark.official_barlow_twins(*inputs)
    torch.testing.assert_close(ours, theirs)
    for mine, other in zip(torch.autograd.grad(ours, inputs), torch.autograd.grad(theirs, inputs), strict=True):
        torch.testing.assert_close(mine, other)


def test_the_peak_is_what_is_held_at_one_time() -> None:
    def loss() -> torch.Tensor:
        held = [torch.ones(8 << 20) for _ in range(3)]  # 32 MiB each
        return inputs[0].sum() + sum(part[0] for part in held)

    inputs = benchmark.embeddings(2, 2, CPU)
    assert benchmark.measure(loss, inputs, 1)[1] == pytest.approx(96 << 20, rel=0.1)


def test_it_measures() -> None:
    written = io.StringIO()
    options = benchmark.Loss(rows=64, dims=2048, rounds=1, ranks=(2, 4))
    found = benchmark.ratios(options, Console(file=written, width=120))
    assert [ratio.target for ratio in found] == [2.0, 0.25, 2.0, 0.4]
    assert written.getvalue().count("features") == 5
