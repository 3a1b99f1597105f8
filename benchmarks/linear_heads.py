"""What a grid of linear heads costs beside one head: training steps on the frozen features of a ResNet-50 at 224 px.

`python benchmarks/linear_heads.py` needs no data: images and labels are random, and decoding, which a grid does not
change, is left out; counted in, the ratio could only fall. One head and the grid take their steps in turns behind the
same encoder, and the medians over the rounds are printed. Runs on a GPU where there is one. A part of what the heads
cost does not depend on the batch, so one below the published 256 makes the ratio look worse than it is.
"""

from __future__ import annotations

import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path

if __name__ == "__main__":  # the tree that this file stands in, whatever is installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.ratios import Ratio, print_ratios
from vicreg.evals.heads import LinearHeads
from vicreg.evals.settings.linear import HeadSettings
from vicreg.model import build_encoder, num_features

SIZE = 224
TARGET = 1.15


@dataclass(frozen=True)
class Grid:
    """Measure the cost of a grid of linear heads."""

    heads: int = 40
    """Heads of the grid."""
    classes: int = 1000
    """Classes."""
    batch: int = 256
    """Images per step."""
    rounds: int = 3
    """Steps of each contestant that are timed, after one that is not."""
    encoder: str = "resnet50"
    """Encoder in torchvision or timm."""
    batch_norm: bool = False
    """Batch norm before each layer, as in VISSL's transfer benchmarks."""


class Clock:
    """Seconds since the last look, the device being done with all that was asked of it."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._last = device, 0.0
        self.lap()

    def lap(self) -> float:
        """Seconds since the last lap."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        before, self._last = self._last, time.perf_counter()
        return self._last - before


def measure(options: Grid, device: torch.device) -> tuple[float, dict[int, float]]:
    """Seconds of the encoder's pass over a batch, and of a step of one head and of the grid, by their number."""
    encoder = build_encoder(options.encoder).eval().to(device)
    images = torch.randn(options.batch, 3, SIZE, SIZE, device=device)
    labels = torch.randint(options.classes, (options.batch,), device=device)
    contestants = {
        num: LinearHeads(
            [HeadSettings(0.02 * (1 + number), 1e-6) for number in range(num)],
            num_features(encoder),
            options.classes,
            momentum=0.9,
            nesterov=False,
            batch_norm=options.batch_norm,
            seed=0,
            device=device,
        )
        for num in (1, options.heads)
    }
    encoder_s: list[float] = []
    heads_s: dict[int, list[float]] = {num: [] for num in contestants}
    for number in range(options.rounds + 1):
        for num, heads in contestants.items():
            clock = Clock(device)
            with torch.no_grad():
                features = encoder(images).to(torch.float32)
            encoder_lap = clock.lap()
            heads.step(features, labels, 1.0)
            heads_lap = clock.lap()
            if number:
                encoder_s.append(encoder_lap)
                heads_s[num].append(heads_lap)
    return statistics.median(encoder_s), {num: statistics.median(laps) for num, laps in heads_s.items()}


def ratios(options: Grid, console: Console) -> list[Ratio]:
    """Measure and print; the ratio with its target."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    where = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    encoder_s, measured = measure(options, device)
    title = f"{options.encoder} at {SIZE} px, {options.classes} classes, batch {options.batch}, {where}"
    table = Table("heads", "encoder, ms", "heads, ms", "heads' share", "step, times one head", title=title)
    times = {num: (encoder_s + heads_s) / (encoder_s + measured[1]) for num, heads_s in measured.items()}
    for num, heads_s in measured.items():
        share = f"{100 * heads_s / (encoder_s + heads_s):.1f} %"
        table.add_row(str(num), f"{1000 * encoder_s:,.1f}", f"{1000 * heads_s:,.1f}", share, f"{times[num]:.3f}")
    console.print(table)
    return [Ratio(f"evaluation step: {options.heads} linear heads / one, time", times[options.heads], TARGET, False)]


def main(options: Grid) -> None:
    """Print the tables."""
    console = Console()
    print_ratios(ratios(options, console), console)


if __name__ == "__main__":
    main(tyro.cli(Grid))
