"""The speeds that predictions rest on, measured here, and how well these then predict steps of 1, 2 and 4 ranks.

`python benchmarks/step.py` prints the lines for a profile in clusters.toml. Ranks are processes of this machine that
talk by gloo, with one thread each; where they are more than the cores, a rank's arithmetic and memory are shared. A
small network on small images, so that arithmetic and network both count. The speeds of arithmetic and memory are those
of processes that have as many images as each rank, and do not talk, as many at once as there are ranks, at most the
cores: cores share memory, and virtual ones more. A collective's wait is taken between arithmetic, where it also waits
for the slowest rank: five times as long here as without.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # the tree that this file stands in, whatever is installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import tyro
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.ratios import Ratio, print_ratios
from vicreg.config import DataConfig, ModelConfig, PretrainConfig, TrainConfig
from vicreg.cost.flops import step_flops
from vicreg.cost.prediction import predict
from vicreg.losses.forms import Speeds
from vicreg.method import Inputs, Progress
from vicreg.methods import vicreg
from vicreg.ranks import distributed
from vicreg.ranks.distributed import Placement
from vicreg.ranks.rendezvous import connected
from vicreg.training.learner import Learner

LARGE, SMALL = 32 << 20, 8
NUM_LAYERS = 100
WITHIN = 1.3


@dataclass(frozen=True)
class Step:
    """Measure speeds, predict, compare."""

    encoder: str = "resnet18"
    expander: str = "512-512-512"
    image_size: int = 64
    global_batch: int = 64
    ranks: tuple[int, ...] = (1, 2, 4)
    rounds: int = 5
    """Steps that are measured; the median counts."""

    def config(self) -> PretrainConfig:
        """The run whose steps are measured."""
        return PretrainConfig(
            vicreg.Config(),
            DataConfig(image_size=self.image_size, eval_resize=self.image_size),
            model=ModelConfig(self.encoder, expander=self.expander),
            train=TrainConfig(global_batch=self.global_batch),
        )


def _median_s(work: Callable[[], object], rounds: int) -> float:
    seconds = []
    for _ in range(rounds + 1):
        start_s = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start_s)
    return statistics.median(seconds[1:])


def _mean_s(work: Callable[[], object], rounds: int) -> float:
    work()
    start_s = time.perf_counter()
    for _ in range(rounds):
        work()
    return (time.perf_counter() - start_s) / rounds


START = Progress(0, 1, 1)


def _whole_step(learner: Learner, views: list[Tensor]) -> None:
    learner.gradients.clear()
    nothing = torch.zeros(0, dtype=torch.int64)
    learner.method(Inputs(views, nothing, nothing), START)["loss"].backward()
    learner.gradients.finish()
    learner.optimizer.step()


def _model_alone(learner: Learner, views: list[Tensor]) -> None:
    learner.gradients.clear()
    for way in learner.method.passes():
        way.network(views[way.view]).sum().backward()


def _views(options: Step, ranks: int) -> list[Tensor]:
    shape = (options.global_batch // ranks, 3, options.image_size, options.image_size)
    return [torch.randn(shape).contiguous(memory_format=torch.channels_last) for _ in range(2)]


def measure_process(options: Step) -> dict[str, float]:
    """Seconds of the arithmetic of a rank's part, and of a copy, in a process that talks to nobody."""
    learner, found = Learner.build(options.config(), torch.device("cpu")), {}
    for ranks in options.ranks:  # fewer images use the arithmetic less well
        share = _views(options, ranks)
        found[f"model of {ranks}"] = _median_s(partial(_model_alone, learner, share), options.rounds)
    source = torch.zeros(LARGE)
    target = torch.zeros_like(source)
    return {**found, "copy": _median_s(partial(target.copy_, source), options.rounds)}


def measure_rank(options: Step) -> dict[str, float]:
    """Seconds of a step on this rank and of its exchanges."""
    learner = Learner.build(options.config(), torch.device("cpu"))
    views = _views(options, distributed.world_size())
    found = {"step": _median_s(partial(_whole_step, learner, views), options.rounds)}
    if distributed.world_size() > 1:
        found["large sum"] = _median_s(partial(distributed.sum_over_ranks, torch.zeros(LARGE // 4)), 4 * options.rounds)
        alone, waiting = (_mean_s(partial(_layers, size), options.rounds) for size in (0, SMALL))
        found["small sum"] = (waiting - alone) / NUM_LAYERS
    return found


def _layers(size: int) -> None:
    """Arithmetic as that of layers, with a small sum after each: a rank waits for the slowest one, not for the network
    alone."""
    square, small = torch.ones(256, 256), torch.zeros(size)
    for _ in range(NUM_LAYERS):
        for _ in range(4):
            square @ square
        if size:
            distributed.sum_over_ranks(small)


def _on_rank(rank: int, ranks: int, folder: Path, options: Step) -> dict[str, float]:
    torch.set_num_threads(1)
    with connected(Placement(rank, ranks, rank, ranks), folder / "rendezvous.json", timeout_s=120):
        return measure_rank(options)


def _beside_others(number: int, processes: int, folder: Path, options: Step) -> dict[str, float]:
    torch.set_num_threads(1)
    (folder / str(number)).touch()
    while len(list(folder.iterdir())) < processes:
        time.sleep(0.001)
    return measure_process(options)


def measure(work: Callable[[int, int, Path, Step], dict[str, float]], options: Step, number: int) -> dict[str, float]:
    """What the first of so many processes measured that do the same at the same time."""
    with (
        tempfile.TemporaryDirectory() as folder,
        ProcessPoolExecutor(number, mp_context=multiprocessing.get_context("spawn")) as pool,
    ):
        futures = [pool.submit(work, place, number, Path(folder), options) for place in range(number)]
        first, *_ = [future.result() for future in futures]
        return first


def speeds_of(options: Step, alone: dict[str, float], two: dict[str, float], ranks: int) -> Speeds:
    """Speeds of one of so many ranks with a core of its own, from what processes and what two ranks measured."""
    tflops = step_flops(options.config(), options.global_batch // ranks) / alone[f"model of {ranks}"] / 1e12
    memory_gb_s = 2 * 4 * LARGE / alone["copy"] / 1e9
    link_gb_s = LARGE / (two["large sum"] - two["small sum"]) / 1e9  # of two ranks each sends as much as there is
    return Speeds(tflops, link_gb_s, two["small sum"] * 1e6, memory_gb_s)


def shared(speeds: Speeds, ranks: int, cores: int) -> Speeds:
    """What is left of a rank's speeds when there are more ranks than cores."""
    share = min(1.0, cores / ranks)
    return replace(
        speeds,
        tflops=share * speeds.tflops,
        memory_gb_s=share * speeds.memory_gb_s,
        link_gb_s=share * speeds.link_gb_s,
        latency_us=speeds.latency_us / share,
    )


def ratios(options: Step, console: Console) -> list[Ratio]:
    """Measure, predict and print; predicted over measured for each number of ranks."""
    cores = len(os.sched_getaffinity(0))
    at_once = {ranks: min(ranks, cores) for ranks in options.ranks}
    alone = {number: measure(_beside_others, options, number) for number in sorted(set(at_once.values()))}
    measured = {ranks: measure(_on_rank, options, ranks) for ranks in options.ranks}
    speeds = {ranks: speeds_of(options, alone[number], measured[2], ranks) for ranks, number in at_once.items()}
    typical = speeds[min(speeds)]
    console.print("for a profile in clusters.toml, of ranks like these:", style="bold")
    console.print(f"gpu_tflops = {typical.tflops:.3g}", highlight=False)
    console.print(f"node_interconnect_gb_s = {typical.link_gb_s:.3g}", highlight=False)
    console.print(f"interconnect_latency_us = {typical.latency_us:.0f}", highlight=False)
    images = f"{options.global_batch} images of {options.image_size} px"
    table = Table("ranks", title=f"{options.encoder}, {options.expander}, {images}, {cores} cores; ms")
    for heading in ("measured", "predicted", "model", "loss", "gradients", "norms", "optimizer"):
        table.add_column(heading, justify="right")
    found = []
    for ranks in options.ranks:
        step = predict(options.config(), ranks, False, shared(speeds[ranks], ranks, cores))
        parts: tuple[Any, ...] = (
            step.model_s,
            step.loss_s,
            step.gradients_s,
            step.batch_norm_s,
            step.optimizer_s,
        )
        took_s = measured[ranks]["step"]
        table.add_row(str(ranks), *(f"{1000 * part:,.1f}" for part in (took_s, step.seconds, *parts)))
        off = max(step.seconds / took_s, took_s / step.seconds)
        found.append(Ratio(f"step of {ranks} ranks, predicted and measured, larger / smaller", off, WITHIN, False))
    console.print(table)
    return found


def main(options: Step) -> None:
    """Print the tables."""
    console = Console()
    print_ratios(ratios(options, console), console)


if __name__ == "__main__":
    main(tyro.cli(Step))
