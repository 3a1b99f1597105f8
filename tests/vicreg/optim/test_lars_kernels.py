"""The GPU's kernels for LARS, run by Triton's interpreter on the CPU, against the form that CPUs use."""

from __future__ import annotations

from functools import partial
from unittest.mock import patch

import pytest
import torch
from torch import nn

from tests.interpreted import CAPABILITIES, interpreted, ptx
from vicreg.optim import lars
from vicreg.optim.lars import Lars

pytest.importorskip("triton", reason="Triton comes with torch's CUDA builds")


def _steps(
    clip_lr: bool = False, num_steps: int = 3, bad_step: int = -1, blocks: bool = False, aligned: bool = False
) -> list[torch.Tensor]:
    """Some steps on tensors of less and more than one chunk, a convolution in channels-last order among them."""
    torch.manual_seed(0)
    shapes: list[tuple[int, ...]] = [(70_001, 1), (5,), (6, 5, 3, 3), (40, 1000), (3, 1)]
    if aligned:  # multiples of four values
        shapes = [(70_004, 1), (8,), (6, 4, 3, 3), (40, 1000), (4, 1)]
    parameters = [nn.Parameter(torch.randn(shape)) for shape in shapes]
    parameters[2].data = parameters[2].data.to(memory_format=torch.channels_last)
    parameters[4].data.zero_()
    optimizer = Lars(parameters, weight_decay=1e-2, trust_coefficient=0.02, clip_lr=clip_lr)
    for step in range(num_steps):
        for group in optimizer.param_groups:
            group["lr"] = 0.3 / (step + 1)
        gradients = [torch.randn_like(parameter) for parameter in parameters]
        if step == bad_step:
            gradients[0][7] = float("inf")
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        optimizer.found_inf = torch.tensor(float(step == bad_step))
        with patch.object(lars, "_is_on_cpu", lambda parameter: blocks):
            optimizer.step()
    return [*(p.detach() for p in parameters), *(optimizer.state[p]["momentum"] for p in parameters)]


@pytest.mark.parametrize(
    ("clip_lr", "aligned"),
    [(False, False), *(pytest.param(True, aligned, marks=pytest.mark.slow) for aligned in (True, False))],
)
def test_a_step_equals_that_of_cpus(clip_lr: bool, aligned: bool) -> None:
    expected = _steps(clip_lr, aligned=aligned, blocks=True)
    for mine, theirs in zip(interpreted(partial(_steps, clip_lr, aligned=aligned)), expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_equal_inputs_give_equal_bits() -> None:
    for first, second in zip(interpreted(_steps), interpreted(_steps), strict=True):
        assert torch.equal(first, second)


@pytest.mark.parametrize("form", ["kernels", "calls"])
def test_a_step_with_a_bad_gradient_changes_nothing(form: str) -> None:
    bad, good = partial(_steps, bad_step=2), partial(_steps, num_steps=2)
    results = (interpreted(bad), interpreted(good)) if form == "kernels" else (bad(), good())
    for mine, theirs in zip(*results, strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.slow
@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("aligned", [True, False])
def test_they_compile_for_gpus(aligned: bool, capability: int) -> None:
    """Without a GPU; four values are moved by one instruction where they are aligned."""
    from vicreg.optim import lars_kernels

    tables = {"addresses": "*i64", "sizes": "*i64", "chunks": "*i64"}
    constants = {"aligned": aligned, "chunk_size": lars_kernels.CHUNK, "block": lars_kernels.BLOCK}
    types = {
        lars_kernels._squares: {"sums": "*fp32", "row": "i32", "weight_decay": "fp32"},
        lars_kernels._update: {
            "factors": "*fp32",
            "found_inf": "*fp32",
            "rate": "*fp32",
            "momentum": "fp32",
            "weight_decay": "fp32",
        },
    }
    for kernel, arguments in types.items():
        assert ("ld.global.v4" in ptx(kernel, tables | arguments, constants, capability)) == aligned
