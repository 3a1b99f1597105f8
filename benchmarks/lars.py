"""A step of LARS beside the official program's loop over parameters, and beside a plain copy of as many bytes.

`python benchmarks/lars.py` takes ResNet-50 with the 8192-8192-8192 expander, on a GPU where there is one. A step must
read parameters, gradients and momenta and write parameters and momenta, 20 bytes a value in float32; a copy of so
many bytes, half read and half written, takes the time that nothing can beat.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

if __name__ == "__main__":  # the tree that this file stands in, whatever is installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from benchmarks.ratios import Ratio, print_ratios
from vicreg.config import ModelConfig
from vicreg.model import build_model
from vicreg.optim.lars import Lars

BYTES_PER_VALUE = 20
RATE, WEIGHT_DECAY, TRUST, MOMENTUM = 0.1, 1e-6, 0.001, 0.9


@dataclass(frozen=True)
class Step:
    """Measure a step of LARS."""

    encoder: str = "resnet50"
    expander: str = "8192-8192-8192"
    rounds: int = 5
    """How often each contestant runs; the median counts."""


def official_step(parameters: list[nn.Parameter], momenta: list[Tensor]) -> None:
    """One step in the order of the official program (`main_vicreg.py`, class LARS), one parameter after another."""
    for parameter, momentum in zip(parameters, momenta, strict=True):
        update = parameter.grad
        assert update is not None
        if parameter.ndim != 1:
            update = update.add(parameter, alpha=WEIGHT_DECAY)
            weight_norm, update_norm = torch.norm(parameter), torch.norm(update)
            one = torch.ones_like(weight_norm)
            adapted = torch.where(update_norm > 0, TRUST * weight_norm / update_norm, one)
            update = update.mul(torch.where(weight_norm > 0, adapted, one))
        momentum.mul_(MOMENTUM).add_(update)
        parameter.add_(momentum, alpha=-RATE)


@torch.no_grad()
def measure(options: Step, device: torch.device) -> tuple[int, dict[str, float]]:
    """Number of values, and seconds of each contestant."""
    torch.manual_seed(0)
    model = nn.ModuleList(build_model(ModelConfig(options.encoder, expander=options.expander))).to(device)
    parameters = list(model.parameters())
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter) * 1e-3
    num = sum(p.numel() for p in parameters)
    momenta = [torch.zeros_like(p) for p in parameters]
    ours = Lars(parameters, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY, trust_coefficient=TRUST)
    for group in ours.param_groups:
        group["lr"] = RATE
    source = torch.zeros(num * BYTES_PER_VALUE // 2, dtype=torch.uint8, device=device)
    target = torch.zeros_like(source)
    contestants: dict[str, Callable[[], object]] = {
        "ours": ours.step,
        "official loop": lambda: official_step(parameters, momenta),
        "plain copy": lambda: target.copy_(source),
    }
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(options.rounds + 1):
        for name, run in contestants.items():
            wait(device)
            start_s = time.perf_counter()
            run()
            wait(device)
            if number:
                seconds[name].append(time.perf_counter() - start_s)
    return num, {name: statistics.median(laps) for name, laps in seconds.items()}


def wait(device: torch.device) -> None:
    """Until everything that the GPU was told to do is done."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def ratios(options: Step, console: Console) -> list[Ratio]:
    """Measure and print; the ratios with their targets."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    num, seconds = measure(options, device)
    where = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    title = f"{options.encoder} and {options.expander}, {num / 1e6:,.1f} M values, {where}"
    table = Table("LARS step", "ms", "GB/s", "times the copy", title=title)
    for name, took_s in seconds.items():
        speed = num * BYTES_PER_VALUE / took_s / 1e9
        table.add_row(name, f"{1000 * took_s:,.1f}", f"{speed:,.1f}", f"{took_s / seconds['plain copy']:.2f}")
    console.print(table)
    official = Ratio("LARS: official loop / ours, time", seconds["official loop"] / seconds["ours"], 1.0)
    copy = Ratio("LARS: ours / plain copy of its bytes, time", seconds["ours"] / seconds["plain copy"], 2.0, False)
    return [official, copy]


def main(options: Step) -> None:
    """Print the tables."""
    console = Console()
    print_ratios(ratios(options, console), console)


if __name__ == "__main__":
    import tyro  # not on every GPU machine that imports this file

    main(tyro.cli(Step))
