"""How long a checkpoint holds training up, beside a step and beside writing it on the spot.

`python benchmarks/checkpoint.py --folder DIR` saves ResNet-50 with its expander and LARS's momenta (1.4 GB) to DIR. A
step is here the forward and backward pass of a few images on this machine and the optimizer's step: the shortest
that anybody would take with such a network. While the state is written, steps go on, and their slowing down counts.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

if __name__ == "__main__":  # the tree that this file stands in, whatever is installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.ratios import Ratio, print_ratios
from vicreg import checkpoint
from vicreg.config import DataConfig, ModelConfig, PretrainConfig, TrainConfig
from vicreg.method import Inputs, Progress
from vicreg.methods import vicreg
from vicreg.training.learner import Learner
from vicreg.training.saver import Saver


@dataclass(frozen=True)
class Checkpoint:
    """Measure checkpoints."""

    folder: Path | None = None
    """Where they are written; a temporary folder if none is given."""
    encoder: str = "resnet50"
    expander: str = "8192-8192-8192"
    images: int = 8
    """Of 224 px in a step."""
    rounds: int = 3


START = Progress(0, 1, 1)


def _step(learner: Learner, view: torch.Tensor) -> None:
    learner.gradients.clear()
    nothing = torch.zeros(0, dtype=torch.int64)
    learner.method(Inputs([view, view], nothing, nothing), START)["loss"].backward()
    learner.optimizer.step()


def measure(options: Checkpoint, folder: Path, device: torch.device) -> dict[str, float]:
    """Seconds of a step, of what a due checkpoint holds it up, of steps meanwhile, and of a save on the spot."""
    config = PretrainConfig(
        vicreg.Config(),
        DataConfig(),
        model=ModelConfig(options.encoder, expander=options.expander),
        train=TrainConfig(global_batch=options.images, keep_checkpoints=1),
    )
    learner = Learner.build(config, device)
    saver = Saver(folder / "background", learner, config, steps_per_epoch=1, leads=True)
    view = torch.randn(options.images, 3, 224, 224, device=device)
    laps: dict[str, list[float]] = {"step": [], "stall": [], "step while writing": [], "save on the spot": []}
    for number in range(options.rounds + 1):
        for name, work in (
            ("step", partial(_step, learner, view)),
            ("stall", partial(saver.save_if_due, number + 1)),
            ("step while writing", partial(_step, learner, view)),
            ("", saver.wait),
            ("save on the spot", partial(checkpoint.save, folder / "spot", number, learner.state(), 1)),
        ):
            start_s = time.perf_counter()
            work()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if number and name:
                laps[name].append(time.perf_counter() - start_s)
    return {name: statistics.median(seconds) for name, seconds in laps.items()}


def ratios(options: Checkpoint, console: Console) -> list[Ratio]:
    """Measure and print; the ratio with its target."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        seconds = measure(options, Path(folder), device)
    table = Table("", "ms", title=f"{options.encoder}, {options.expander}, {options.images} images a step")
    for name, took_s in seconds.items():
        table.add_row(name, f"{1000 * took_s:,.0f}")
    console.print(table)
    slower_s = max(0.0, seconds["step while writing"] - seconds["step"])
    held_up = (seconds["stall"] + slower_s) / seconds["step"]
    on_the_spot = seconds["save on the spot"] / (seconds["stall"] + slower_s)
    return [
        Ratio("checkpoint: time lost by training / step", held_up, 1.0, at_least=False),
        Ratio("checkpoint: save on the spot / time lost by training", on_the_spot, 1.0),
    ]


def main(options: Checkpoint) -> None:
    """Print the tables."""
    console = Console()
    print_ratios(ratios(options, console), console)


if __name__ == "__main__":
    main(tyro.cli(Checkpoint))
