"""The benchmark of steps runs at a small size and predicts from what it measured."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from benchmarks import step as benchmark


@pytest.mark.slow
def test_it_measures_and_predicts() -> None:
    written = io.StringIO()
    options = benchmark.Step("resnet18", "32-32", image_size=32, global_batch=8, ranks=(1, 2), rounds=1)
    found = benchmark.ratios(options, Console(file=written, width=120))
    assert [ratio.at_least for ratio in found] == [False, False]
    assert all(ratio.measured >= 1 for ratio in found)
    for key in ("gpu_tflops", "node_interconnect_gb_s", "interconnect_latency_us"):
        assert f"{key} = " in written.getvalue()


def test_what_is_shared_is_slower() -> None:
    alone = benchmark.Speeds(1.0, 2.0, 100.0, 10.0)
    assert benchmark.shared(alone, 2, cores=2) == alone
    assert benchmark.shared(alone, 4, cores=2) == benchmark.Speeds(0.5, 1.0, 200.0, 5.0)
