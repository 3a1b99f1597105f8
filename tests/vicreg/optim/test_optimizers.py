"""Groups of parameters with rates, decay and adaptation of their own, beside loops over one parameter at a time."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vicreg.config import OptimizerConfig
from vicreg.method import ParameterGroup, usual_groups
from vicreg.optim.optimizers import build_optimizer, load_state, peak_rate, rate_at, set_rates

SHAPES = [(6, 4), (5,), (3, 2)]
RATES = [0.0, 0.15, 0.3, 0.2, 0.05]
PEAK = 0.3


def _parameters() -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64)) for shape in SHAPES]


def _gradients() -> list[list[Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [[torch.randn(s, generator=generator, dtype=torch.float64) for s in SHAPES] for _ in RATES]


def _groups(parameters: list[nn.Parameter]) -> list[ParameterGroup]:
    return [
        ParameterGroup([parameters[0]]),
        ParameterGroup([parameters[1]], rate_factor=0.024, decays=False, adapted=False),
        ParameterGroup([parameters[2]], rate_factor=2.0, follows_schedule=False, adapted=False),
    ]


def _run(settings: OptimizerConfig, steps: range, state: Any = None, start: Any = None) -> tuple[list[Tensor], Any]:
    parameters = _parameters() if start is None else [nn.Parameter(value.clone()) for value in start]
    optimizer = build_optimizer(settings, _groups(parameters))
    if state is not None:
        load_state(optimizer, state)
    for step in steps:
        set_rates(optimizer, RATES[step], PEAK)
        for parameter, gradient in zip(parameters, _gradients()[step], strict=True):
            parameter.grad = gradient.clone()
        optimizer.step()
    return [parameter.detach() for parameter in parameters], optimizer.state_dict()


def _loop(number: int, update: Any) -> Tensor:
    """One parameter through all steps: `update(p, g, memory, rate, decay, is_adapted)` returns the next p."""
    p, memory = _parameters()[number].detach(), {}
    for rate, gradients in zip(RATES, _gradients(), strict=True):
        rates = (rate, 0.024 * rate, 2.0 * PEAK)
        p = update(p, gradients[number], memory, rates[number], (0.01, 0.0, 0.01)[number], number == 0)
    return p


def _sgd(nesterov: bool) -> Any:
    def update(p: Tensor, g: Tensor, memory: dict[str, Tensor], rate: float, decay: float, _: bool) -> Tensor:
        g = g + decay * p
        memory["m"] = 0.9 * memory["m"] + g if "m" in memory else g
        return p - rate * (g + 0.9 * memory["m"] if nesterov else memory["m"])

    return update


def _lars(p: Tensor, g: Tensor, memory: dict[str, Tensor], rate: float, decay: float, adapted: bool) -> Tensor:
    g = g + decay * p
    if adapted:
        g = g * 0.001 * p.norm() / g.norm()
    memory["m"] = 0.9 * memory.get("m", torch.zeros_like(p)) + g
    return p - rate * memory["m"]


@pytest.mark.parametrize(
    ("settings", "update"),
    [
        pytest.param(OptimizerConfig(name="sgd", weight_decay=0.01), _sgd(False), id="sgd"),
        pytest.param(OptimizerConfig(name="sgd", weight_decay=0.01, nesterov=True), _sgd(True), id="nesterov"),
        pytest.param(OptimizerConfig(name="lars", weight_decay=0.01), _lars, id="lars"),
    ],
)
def test_each_group_is_learned_in_its_own_way(settings: OptimizerConfig, update: Any) -> None:
    learned, _ = _run(settings, range(len(RATES)))
    for number, parameter in enumerate(learned):
        torch.testing.assert_close(parameter, _loop(number, update), rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("name", ["sgd", "lars", "adamw"])
def test_the_state_goes_on_and_settings_stay(name: Any) -> None:
    settings = OptimizerConfig(name=name, weight_decay=0.01)
    whole, _ = _run(settings, range(5))
    first, state = _run(settings, range(3))
    for group in state["param_groups"]:  # as of a version that said nothing of these, and decayed by other rules
        group.pop("rate_factor")
        group["weight_decay"] = 0.5
    second, _ = _run(settings, range(3, 5), state, first)
    for mine, theirs in zip(second, whole, strict=True):
        assert torch.equal(mine, theirs)


def test_what_has_one_dimension_is_left_out_of_decay_and_adaptation() -> None:
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    network[0].bias.requires_grad_(False)
    weights, others = usual_groups(network, vector_rate_factor=0.5)
    assert [p.ndim for p in weights.parameters] == [2]
    assert [p.ndim for p in others.parameters] == [1, 1]
    assert (others.rate_factor, others.decays, others.adapted) == (0.5, False, False)


def test_rates() -> None:
    settings = OptimizerConfig(base_lr=0.3, warmup_epochs=2, warmup_start_lr=3e-5, final_lr_ratio=0.0)
    assert peak_rate(settings, 512) == peak_rate(dataclasses.replace(settings, name="sgd"), 512) == 0.6
    assert peak_rate(dataclasses.replace(settings, name="adamw"), 512) == 0.3
    rates = [rate_at(settings, 256, step, 100, 5) for step in range(101)]
    assert rates[:11] == pytest.approx([3e-5 + (0.3 - 3e-5) * step / 10 for step in range(11)])
    assert rates[100] == pytest.approx(0, abs=1e-12)
    assert max(rates) == rates[10]
    with pytest.raises(ValueError, match="nesterov is True, allowed: False, but for optimizer sgd"):
        OptimizerConfig(nesterov=True)
