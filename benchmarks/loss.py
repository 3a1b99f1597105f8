"""The loss forward and backward, beside the official formula; and what one of many ranks takes with each form of it.

`python benchmarks/loss.py` measures seconds and peak extra memory of both on this machine, on a GPU where there is one.
Then one rank's share for 2 to 32 ranks: its arithmetic is done, what others would send is made up on the spot, and what
it would send is counted.
"""

from __future__ import annotations

import ctypes
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from unittest.mock import patch

if __name__ == "__main__":  # the tree that this file stands in, whatever is installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional

from benchmarks.ratios import Ratio, print_ratios
from vicreg.config_json import from_json
from vicreg.losses import barlow_twins
from vicreg.losses.covariance import FORMS
from vicreg.losses.forms import DEFAULT_SPEEDS, cheapest, correlation_costs, covariance_costs
from vicreg.losses.settings import BarlowTwinsLossConfig
from vicreg.losses.settings import VicregLossConfig as LossConfig
from vicreg.losses.vicreg import vicreg_loss
from vicreg.ranks import distributed

OFFICIAL = "official formula"


@dataclass(frozen=True)
class Loss:
    """Measure the loss."""

    rows: int = 2048
    """Global batch."""
    dims: int = 8192
    """Width of the embedding."""
    rounds: int = 3
    """How often each contestant runs; the median counts."""
    ranks: tuple[int, ...] = (2, 4, 8, 32)
    """Numbers of ranks of which one's share is measured."""


def official_loss(x: Tensor, y: Tensor) -> Tensor:
    """The official program's formula (`main_vicreg.py`, VICReg.forward; weights 25, 25, 1), with autograd."""
    invariance = functional.mse_loss(x, y)
    x, y = x - x.mean(0), y - y.mean(0)
    std_x, std_y = torch.sqrt(x.var(0) + 0.0001), torch.sqrt(y.var(0) + 0.0001)
    variance = functional.relu(1 - std_x).mean() / 2 + functional.relu(1 - std_y).mean() / 2
    covariances = [z.T @ z / (len(z) - 1) for z in (x, y)]
    dims = x.shape[1]
    covariance = sum(
        c.flatten()[:-1].view(dims - 1, dims + 1)[:, 1:].flatten().pow(2).sum() / dims for c in covariances
    )
    return 25 * invariance + 25 * variance + covariance


def official_barlow_twins(x: Tensor, y: Tensor) -> Tensor:
    """Barlow Twins' official formula (`main.py`, BarlowTwins.forward; weight 0.0051), with autograd."""
    x, y = (functional.batch_norm(z, None, None, training=True) for z in (x, y))
    c = x.T @ y / len(x)
    on_diagonal = torch.diagonal(c).add(-1).pow(2).sum()
    dims = c.shape[0]
    off_diagonal = c.flatten()[:-1].view(dims - 1, dims + 1)[:, 1:].flatten().pow(2).sum()
    return on_diagonal + 0.0051 * off_diagonal


def embeddings(rows: int, dims: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Two views' rows, alike but not equal."""
    generator = torch.Generator().manual_seed(0)
    first = torch.randn(rows, dims, generator=generator)
    second = first + 0.5 * torch.randn(rows, dims, generator=generator)
    return first.to(device).requires_grad_(), second.to(device).requires_grad_()


def _ours(inputs: tuple[Tensor, Tensor], config: LossConfig) -> Tensor:
    return vicreg_loss(*inputs, config)["loss"]


def _ours_barlow_twins(inputs: tuple[Tensor, Tensor], config: BarlowTwinsLossConfig) -> Tensor:
    return barlow_twins.barlow_twins_loss(*inputs, config)["loss"]


def measure(loss: Callable[[], Tensor], inputs: tuple[Tensor, Tensor], rounds: int) -> tuple[float, float]:
    """Median seconds of forward and backward, and the most bytes held beyond what was there before."""
    device, seconds, peak = inputs[0].device, [], 0.0
    for _ in range(rounds + 1):
        for tensor in inputs:
            tensor.grad = None
        before = restart_peak(device)
        start_s = time.perf_counter()
        loss().backward()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start_s)
        peak = max(peak, peak_bytes(device) - before)
    return statistics.median(seconds[1:]), peak


def restart_peak(device: torch.device) -> int:
    """Bytes held now; from here on the peak counts. On a CPU those of the process (Linux: man 5 proc, clear_refs)."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    # What was freed and is kept for the next allocation would count as held before (man 3 malloc_trim).
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return _status_bytes("VmRSS")


def peak_bytes(device: torch.device) -> int:
    return torch.cuda.max_memory_allocated() if device.type == "cuda" else _status_bytes("VmHWM")


def _status_bytes(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024


@contextmanager
def one_of(ranks: int) -> Iterator[None]:
    """This process computes as one of several ranks; from the others come copies of what it has itself."""

    def gather_rows(tensor: Tensor) -> Tensor:
        return torch.cat([tensor] * ranks)

    with (
        patch.object(distributed, "world_size", lambda: ranks),
        patch.object(distributed, "gather_rows", gather_rows),
        patch.object(distributed, "sum_over_ranks", lambda tensor: tensor),
        patch.object(distributed, "_exchange", torch.clone),
    ):
        yield


def in_form(form: str) -> LossConfig:
    """The usual weights, in one form."""
    return from_json(LossConfig, {"form": form})


def compare(options: Loss, device: torch.device, console: Console) -> list[Ratio]:
    """All forms of VICReg's loss in one process beside the official formula."""
    inputs = embeddings(options.rows, options.dims, device)
    contestants: dict[str, Callable[[], Tensor]] = {OFFICIAL: partial(official_loss, *inputs)}
    for form in FORMS:
        contestants[f"ours, {form}"] = partial(_ours, inputs, in_form(form))
    chosen = cheapest(covariance_costs(options.rows, options.dims, 1), 1, DEFAULT_SPEEDS[device.type])
    return _compare("loss", contestants, chosen, inputs, options, console)


def compare_barlow_twins(options: Loss, device: torch.device, console: Console) -> list[Ratio]:
    """The same of Barlow Twins' loss."""
    inputs = embeddings(options.rows, options.dims, device)
    contestants: dict[str, Callable[[], Tensor]] = {OFFICIAL: partial(official_barlow_twins, *inputs)}
    for form in FORMS:
        settings = from_json(BarlowTwinsLossConfig, {"form": form})
        contestants[f"ours, {form}"] = partial(_ours_barlow_twins, inputs, settings)
    chosen = cheapest(correlation_costs(options.rows, options.dims, 1), 1, DEFAULT_SPEEDS[device.type])
    # 0.4: beside the embeddings and their gradients both are held as standardised, which VICReg's need not be.
    return _compare("Barlow Twins' loss", contestants, chosen, inputs, options, console, memory_target=0.4)


def _compare(
    title: str,
    contestants: dict[str, Callable[[], Tensor]],
    chosen: str,
    inputs: tuple[Tensor, Tensor],
    options: Loss,
    console: Console,
    memory_target: float = 0.25,
) -> list[Ratio]:
    device = inputs[0].device
    where = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    table = Table(f"{title}, forward and backward", title=f"{options.rows} x {options.dims}, float32, {where}")
    for heading in ("ms", "times faster", "peak extra MB", "of the official"):
        table.add_column(heading, justify="right")
    measured = {name: measure(loss, inputs, options.rounds) for name, loss in contestants.items()}
    official_s, official_bytes = measured[OFFICIAL]
    for name, (took_s, peak) in measured.items():
        ratios = f"{official_s / took_s:.2f}", f"{peak / 1e6:,.0f}", f"{peak / official_bytes:.0%}"
        table.add_row(name, f"{1000 * took_s:,.1f}", *ratios)
    console.print(table)
    took_s, peak = measured[f"ours, {chosen}"]
    share = peak / official_bytes
    return [
        Ratio(f"{title} ({chosen}): official formula / ours, time", official_s / took_s, 2.0),
        Ratio(f"{title} ({chosen}): ours / official formula, peak extra memory", share, memory_target, False),
    ]


def share_of_ranks(options: Loss, device: torch.device, console: Console) -> dict[tuple[int, str], float]:
    """Seconds of one rank's share for every form and number of ranks; prints the table."""
    table = Table("ranks", "form", title=f"one rank's share of {options.rows} x {options.dims}, both views")
    for heading in ("GFLOP", "ms", "peak extra MB", "MB sent", "taken at usual speeds"):
        table.add_column(heading, justify="right")
    found: dict[tuple[int, str], float] = {}
    for ranks in (1, *options.ranks):
        inputs = embeddings(options.rows // ranks, options.dims, device)
        costs = covariance_costs(options.rows, options.dims, ranks)
        chosen = cheapest(costs, ranks, DEFAULT_SPEEDS[device.type])
        for form, cost in costs.items():
            with one_of(ranks):
                took_s, peak = measure(partial(_ours, inputs, in_form(form)), inputs, options.rounds)
            found[ranks, form] = took_s
            numbers = cost.flops / 1e9, 1000 * took_s, peak / 1e6, cost.sent_bytes / 1e6
            table.add_row(str(ranks), form, *(f"{n:,.1f}" for n in numbers), "yes" if form == chosen else "")
    console.print(table)
    return found


def ratios(options: Loss, console: Console) -> list[Ratio]:
    """Measure and print; the ratios with their targets."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    found = [*compare(options, device, console), *compare_barlow_twins(options, device, console)]
    share_of_ranks(options, device, console)
    return found


def main(options: Loss) -> None:
    """Print the tables."""
    console = Console()
    print_ratios(ratios(options, console), console)


if __name__ == "__main__":
    import tyro  # not on every GPU machine that imports this file

    main(tyro.cli(Loss))
