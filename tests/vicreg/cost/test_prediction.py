"""Predicted durations: known answers where one part alone counts, and how the parts change with the ranks."""

from __future__ import annotations

import dataclasses

import pytest

from vicreg.config import DataConfig, ModelConfig, PretrainConfig, TrainConfig
from vicreg.cost.estimate import estimate
from vicreg.cost.flops import step_flops
from vicreg.cost.prediction import predict
from vicreg.losses.forms import DEFAULT_SPEEDS, Speeds, known_speeds
from vicreg.methods import vicreg

CONFIG = PretrainConfig(
    vicreg.Config(),
    DataConfig(image_size=32, eval_resize=32),
    model=ModelConfig("resnet18", True, "64-64"),
    train=TrainConfig(global_batch=512),
)
FREE = Speeds(tflops=1e9, link_gb_s=1e9, latency_us=0, memory_gb_s=1e9)  # whatever is not looked at takes no time


def test_arithmetic_is_divided_by_the_ranks() -> None:
    speeds = dataclasses.replace(FREE, tflops=1.0)
    for ranks in (1, 2, 64, 256):
        step = predict(CONFIG, ranks, True, speeds)
        assert step.model_s == pytest.approx(step_flops(CONFIG, 512) / ranks / 1e12)
        assert step.seconds == pytest.approx(step.model_s + step.loss_s, rel=1e-3)


def test_gradients_cost_what_the_backward_pass_does_not_hide() -> None:
    slow_link = dataclasses.replace(FREE, link_gb_s=0.1)
    sent_s = estimate(CONFIG, 8, True).gradient_traffic_bytes / 1e8
    assert predict(CONFIG, 8, True, slow_link).gradients_s == pytest.approx(sent_s, rel=1e-3)
    computing = dataclasses.replace(slow_link, tflops=1.0)
    model_s = predict(CONFIG, 8, True, computing).model_s
    assert predict(CONFIG, 8, True, computing).gradients_s == pytest.approx(sent_s - 2 / 3 * model_s)
    busy = dataclasses.replace(slow_link, tflops=1e-3)  # all hidden, but for the last bucket
    assert 0 < predict(CONFIG, 8, True, busy).gradients_s <= sent_s / 2
    assert predict(CONFIG, 1, True, slow_link).gradients_s == 0


def test_every_layer_waits_for_its_statistics() -> None:
    waiting = dataclasses.replace(FREE, latency_us=1000.0)
    layers = 20 + 1  # of ResNet-18, and of the expander
    for ranks, doublings in ((1, 0), (2, 1), (4, 2), (32, 5)):
        on_gpu, on_cpu = (predict(CONFIG, ranks, kind, waiting).batch_norm_s for kind in (True, False))
        assert on_gpu == pytest.approx(2 * 2 * layers * doublings * 1e-3, rel=1e-3, abs=1e-6)
        assert on_cpu == pytest.approx(on_gpu, rel=1e-3, abs=1e-6)


def test_what_is_not_stated_is_usual() -> None:
    usual = DEFAULT_SPEEDS["cuda"]
    assert known_speeds("cuda", one_node=False) == usual
    assert known_speeds("cuda", one_node=True).link_gb_s > usual.link_gb_s
    assert known_speeds("cuda", False, tflops=400, link_gb_s=50, latency_us=5) == Speeds(400, 50, 5, usual.memory_gb_s)


def test_ranks_that_do_not_divide_the_batch_are_refused() -> None:
    with pytest.raises(ValueError, match="global_batch"):
        predict(CONFIG, 3, True, FREE)
