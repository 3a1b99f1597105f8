"""Every method side by side: what a step takes, what a contrastive loss takes, and what is learned in the same time.

`python benchmarks/methods.py` prints a step of each method in vicreg/methods beside VICReg's, and the contrastive
losses beside the plain formula with autograd. `--learn IMAGES --run DIR` trains each by its CIFAR-10 recipe for a few
epochs and prints one table; IMAGES has train/<class>/ and test/<class>/ with small images. With `--small`, for CPUs,
the network is narrow, and the images are the first 500 and 200 of each class, at 24 px. The same command goes on where
it stopped. `--only NAME` takes some methods alone, `--json FILE` writes the numbers down.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional

if __name__ == "__main__":  # the tree that this file stands in, whatever is installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.loss import embeddings, measure, peak_bytes, restart_peak
from benchmarks.methods_learn import learn_all
from benchmarks.ratios import Ratio, print_ratios
from benchmarks.small_methods import BATCH, NARROW, SIDE_PX, names, small
from dataprep.beton.contract import BetonError
from vicreg.config import DataConfig
from vicreg.losses.contrastive import nt_xent_loss, queue_loss
from vicreg.method import Inputs, Progress, TrainingData
from vicreg.training.learner import Learner

TEMPERATURE = 0.1
Numbers = dict[str, dict[str, float]]


def step_cost(name: str, device: torch.device, rounds: int) -> dict[str, float]:
    """Median milliseconds of a step of the small recipe, and the most megabytes held beyond what was there before."""
    config = small(name, DataConfig(image_size=SIDE_PX, eval_resize=SIDE_PX), 1)
    before = restart_peak(device)
    learner = Learner.build(config, device, TrainingData(10 * BATCH, 10))
    views = [torch.randn(BATCH, 3, v.image_size, v.image_size, device=device) for v in config.each_view]
    labels = torch.arange(BATCH, device=device) % 10
    inputs, took = Inputs(views, labels, torch.arange(BATCH, device=device)), []
    for step in range(rounds + 1):
        start_s = time.perf_counter()
        learner.learn(inputs, Progress(step, 100, 50))
        if device.type == "cuda":
            torch.cuda.synchronize()
        took.append(1000 * (time.perf_counter() - start_s))
    return {"ms": statistics.median(took[1:]), "MB": (peak_bytes(device) - before) / 1e6}


def steps(names: list[str], device: torch.device, rounds: int, console: Console) -> Numbers:
    """A step of each method beside VICReg's, of the same encoder, batch and image size."""
    step_cost("vicreg", device, 1)  # what a process needs at first would be counted as the first method's
    found = {name: step_cost(name, device, rounds) for name in dict.fromkeys(["vicreg", *names])}
    table = Table("method", title=f"a step of {BATCH} images of {SIDE_PX} px, {NARROW}")
    for heading in ("ms", "of VICReg's", "MB", "of VICReg's"):
        table.add_column(heading, justify="right")
    for name, cost in found.items():
        cells = [f"{value:,.1f}" for key in ("ms", "MB") for value in (cost[key], cost[key] / found["vicreg"][key])]
        table.add_row(name, *cells)
    console.print(table)
    return found


def _nt_xent(a: Tensor, b: Tensor) -> Tensor:
    return nt_xent_loss(a, b, TEMPERATURE)["loss"]


def plain_nt_xent(a: Tensor, b: Tensor) -> Tensor:
    """SimCLR's loss as one would write it: all similarities, a mask, torch's cross-entropy."""
    z = functional.normalize(torch.cat([a, b]))
    own = torch.eye(len(z), dtype=torch.bool, device=z.device)
    logits = (z @ z.T / TEMPERATURE).masked_fill(own, float("-inf"))
    return functional.cross_entropy(logits, torch.arange(len(z), device=z.device).roll(len(a)))


def plain_queue(queries: Tensor, keys: Tensor, queue: Tensor) -> Tensor:
    """MoCo's loss as its official program has it: the own key first, torch's cross-entropy."""
    q = functional.normalize(queries)
    logits = torch.cat([(q * keys).sum(1, keepdim=True), q @ queue.T], 1) / TEMPERATURE
    return functional.cross_entropy(logits, torch.zeros(len(q), dtype=torch.int64, device=q.device))


def contrastive(device: torch.device, rounds: int, console: Console) -> tuple[Numbers, list[Ratio]]:
    """The contrastive losses, forward and backward, beside the plain formulas."""
    found: Numbers = {}
    for rows in (2048, 4096):
        pair = embeddings(rows, 128, device)
        found |= _beside(
            f"NT-Xent, two views of {rows}",
            partial(_nt_xent, *pair),
            partial(plain_nt_xent, *pair),
            pair,
            rounds,
        )
    queries = embeddings(256, 128, device)
    keys = functional.normalize(queries[1].detach())
    queue = functional.normalize(torch.randn(65536, 128, device=device))
    found |= _beside(
        "InfoNCE, 256 against 65,536",
        lambda: queue_loss(queries[0], keys, queue, TEMPERATURE)["loss"],
        lambda: plain_queue(queries[0], keys, queue),
        queries,
        rounds,
    )
    table = Table("loss of 128 dimensions", title="forward and backward, float32")
    for heading in ("ours, ms", "plain, ms", "ours, MB", "plain, MB"):
        table.add_column(heading, justify="right")
    ratios = []
    for name, cost in found.items():
        table.add_row(name, *(f"{value:,.1f}" for value in cost.values()))
        faster, share = cost["plain ms"] / cost["ms"], cost["MB"] / cost["plain MB"]
        what = f"{name}: {faster:.2f} times faster with {share:.2f} of the memory (1.5, or 0.25)"
        ratios.append(Ratio(what, max(faster / 1.5, 0.25 / max(share, 1e-3)), 1.0))
    console.print(table)
    return found, ratios


def _beside(
    name: str, ours: Callable[[], Tensor], plain: Callable[[], Tensor], inputs: tuple[Tensor, Tensor], rounds: int
) -> Numbers:
    (ours_s, ours_bytes), (plain_s, plain_bytes) = (measure(loss, inputs, rounds) for loss in (ours, plain))
    return {
        name: {"ms": 1000 * ours_s, "plain ms": 1000 * plain_s, "MB": ours_bytes / 1e6, "plain MB": plain_bytes / 1e6}
    }


def main(arguments: list[str]) -> int:
    """Measure, print, write down; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=names(), choices=names(), help="some methods alone")
    parser.add_argument("--rounds", type=int, default=5, help="how often each is measured; the median counts")
    parser.add_argument("--learn", type=Path, metavar="IMAGES", help="folder with train/<class>/ and test/<class>/")
    parser.add_argument("--small", action="store_true", help="narrow network, few images of 24 px: for CPUs")
    parser.add_argument("--run", type=Path, default=Path("runs/methods"), help="folder of the runs that learn")
    parser.add_argument("--epochs", type=int, default=30, help="of each run that learns")
    parser.add_argument("--minutes", type=float, default=1e6, help="of each run that learns, until the next call")
    parser.add_argument("--json", type=Path, help="file for the numbers")
    options = parser.parse_args(arguments)
    device, console = torch.device("cuda" if torch.cuda.is_available() else "cpu"), Console()
    found: dict[str, Any]
    try:
        if options.learn:
            found = {"learned": learn_all(options.only, options, device, console)}
        else:
            found = {"steps": steps(options.only, device, options.rounds, console)}
            found["losses"], ratios = contrastive(device, options.rounds, console)
            print_ratios(ratios, console)
    except (BetonError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
