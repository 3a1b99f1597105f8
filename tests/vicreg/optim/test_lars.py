"""LARS against the official program's trajectory and a slow loop."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from vicreg.optim import lars
from vicreg.optim.lars import Lars

GOLDEN = np.load(Path(__file__).parents[2] / "golden" / "lars.npz")


@pytest.fixture(params=["blocks of 4", "blocks", "together"])
def _form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways of a step: a CPU's, here also with more than one block, and a GPU's."""
    if request.param == "blocks of 4":
        monkeypatch.setattr(lars, "BLOCK", 4)
    if request.param == "together":
        monkeypatch.setattr(lars, "_is_on_cpu", lambda parameter: False)


@pytest.mark.usefixtures("_form")
def test_trajectory_equals_the_official_program() -> None:
    parameters = [nn.Parameter(torch.from_numpy(GOLDEN[f"p{i}_init"].copy())) for i in range(6)]
    optimizer = Lars(
        parameters,
        momentum=float(GOLDEN["momentum"]),
        weight_decay=float(GOLDEN["weight_decay"]),
        trust_coefficient=float(GOLDEN["eta"]),
    )
    for step, rate in enumerate(GOLDEN["lr"]):
        for group in optimizer.param_groups:
            group["lr"] = float(rate)
        for i, parameter in enumerate(parameters):
            parameter.grad = torch.from_numpy(GOLDEN[f"p{i}_g{step}"].copy())
        optimizer.step()
        for i, parameter in enumerate(parameters):
            np.testing.assert_allclose(parameter.detach(), GOLDEN[f"p{i}_s{step}"], rtol=1e-9, atol=1e-14)


def _clipped_loop(p: torch.Tensor, grads: list[torch.Tensor], rate: float) -> torch.Tensor:
    """solo-learn's form, one parameter at a time: trust 0.02, weight decay 1e-4, clipped at the global rate."""
    momentum = torch.zeros_like(p)
    for g in grads:
        if p.ndim != 1:
            factor = 1.0
            if p.norm() > 0 and g.norm() > 0:
                factor = min(float(0.02 * p.norm() / (g.norm() + 1e-4 * p.norm() + 1e-8)) / rate, 1.0)
            g = (g + 1e-4 * p) * factor
        momentum = 0.9 * momentum + g
        p = p - rate * momentum
    return p


@pytest.mark.usefixtures("_form")
@pytest.mark.parametrize("scale", [1e-3, 1.0])
def test_clipped_form_equals_a_loop(scale: float) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = [(6, 4), (6,), (3, 2, 3, 3)]
    starts = [torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes]
    grads = [[scale * torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes] for _ in range(5)]
    parameters = [nn.Parameter(start.clone()) for start in starts]
    optimizer = Lars(parameters, weight_decay=1e-4, trust_coefficient=0.02, clip_lr=True)
    for step in grads:
        for group in optimizer.param_groups:
            group["lr"] = 0.3
        for parameter, gradient in zip(parameters, step, strict=True):
            parameter.grad = gradient.clone()
        optimizer.step()
    for i, parameter in enumerate(parameters):
        expected = _clipped_loop(starts[i], [step[i] for step in grads], 0.3)
        torch.testing.assert_close(parameter.detach(), expected, rtol=1e-10, atol=1e-14)


def test_state_survives_saving() -> None:
    def build() -> tuple[list[nn.Parameter], Lars]:
        torch.manual_seed(0)
        parameters = [nn.Parameter(torch.randn(4, 3)), nn.Parameter(torch.randn(3))]
        optimizer = Lars(parameters)
        return parameters, optimizer

    def run(parameters: list[nn.Parameter], optimizer: Lars, steps: range) -> None:
        for step in steps:
            for parameter in parameters:
                parameter.grad = torch.full_like(parameter, 0.1 * step)
            for group in optimizer.param_groups:
                group["lr"] = 0.1
            optimizer.step()

    whole, optimizer = build()
    run(whole, optimizer, range(6))
    first, optimizer = build()
    run(first, optimizer, range(3))
    second, resumed = build()
    resumed.load_state_dict(optimizer.state_dict())
    for target, source in zip(second, first, strict=True):
        target.data.copy_(source.data)
    run(second, resumed, range(3, 6))
    for mine, theirs in zip(second, whole, strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("layout", ["channels_last", "gradient laid out otherwise", "not compact"])
def test_any_layout(layout: str) -> None:
    """The same values in another order of memory."""
    torch.manual_seed(0)
    start, gradient = torch.randn(6, 5, 3, 3, dtype=torch.float64), torch.randn(6, 5, 3, 3, dtype=torch.float64)
    plain, other = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    plain.grad = gradient.clone()
    if layout == "not compact":
        wide = torch.zeros(6, 5, 3, 6, dtype=torch.float64)
        wide[..., ::2] = start
        other = nn.Parameter(wide[..., ::2])
    elif layout == "channels_last":
        other.data = other.data.to(memory_format=torch.channels_last)
    other.grad = gradient.clone().to(memory_format=torch.channels_last)
    for parameter in (plain, other):
        optimizer = Lars([parameter])
        optimizer.param_groups[0]["lr"] = 0.5
        optimizer.step()
    torch.testing.assert_close(other, plain, rtol=1e-12, atol=1e-12, check_stride=False)
    assert not torch.equal(plain, start)
