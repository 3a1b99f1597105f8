"""Reading sound, side by side: this suite's loader, and soundfile in torch's DataLoader.

`python benchmarks/sound_loader.py` makes clips of white noise (five seconds at 44.1 kHz, as of ESC-50) as WAV files
and as a beton. Both contestants give batches of two random stretches of each clip, as 16-bit samples; they run in turns
in this process, and the median over the rounds is printed.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

if __name__ == "__main__":  # the tree that this file stands in, whatever is installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import soundfile
import torch
import tyro
from rich.console import Console

from benchmarks.ratios import Ratio, print_ratios
from dataprep import write_ffcv
from vicreg.config import DataConfig, ViewConfig
from vicreg.data.loaders import open_views

RATE_HZ, SECONDS, CROP, BATCH = 44_100, 5.0, 0.1, 32
TARGET = 3.0
Epoch = Callable[[int], int]
"""One pass over the clips with this number; returns how many clips it was."""


@dataclass(frozen=True)
class SoundLoader:
    """Measure loaders of sound."""

    clips: int = 256
    """How many there are."""
    rounds: int = 3
    """How often each loader runs."""
    workers: int = 1
    """Threads or processes of each loader."""


class Files(torch.utils.data.Dataset[list[torch.Tensor]]):
    """WAV files read by soundfile, two random stretches each."""

    def __init__(self, folder: Path) -> None:
        self.paths = sorted(folder.rglob("*.wav"))

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, place: int) -> list[torch.Tensor]:
        values, _ = soundfile.read(self.paths[place], dtype="int16")
        length = round(len(values) * (1 - CROP))
        starts = torch.randint(len(values) - length + 1, (2,)).tolist()
        return [torch.from_numpy(values[start : start + length].copy())[None] for start in starts]


def write_clips(folder: Path, count: int) -> Path:
    """WAV files of noise in two classes, and their beton; where that is."""
    random = np.random.default_rng(0)
    for number in range(count):
        path = folder / "raw" / f"class_{number % 2}" / f"{number:04d}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        values = random.integers(-(1 << 14), 1 << 14, round(RATE_HZ * SECONDS)).astype(np.int16)
        soundfile.write(path, values, RATE_HZ)
    code = write_ffcv.main(["audio", "--root", str(folder / "raw"), "--out", str(folder), "--num-workers", "0"])
    if code:
        raise ValueError(f"{folder / 'raw'} could not be written as a beton; the reason stands above")
    return folder / "train.beton"


def ours(beton: Path, workers: int) -> Epoch:
    """This suite's loader."""
    loader = open_views(
        DataConfig(train=str(beton), mean=(0.0,), std=(1.0,)),
        beton,
        (ViewConfig(), ViewConfig()),
        seed=0,
        global_batch=BATCH,
        rank=0,
        world_size=1,
        device=torch.device("cpu"),
        workers=workers,
    )

    def epoch(number: int) -> int:
        with closing(loader.batches(number)) as batches:
            return sum(len(batch.samples) for batch in batches)

    return epoch


def data_loader(folder: Path, workers: int) -> Epoch:
    """soundfile in a DataLoader whose processes stay alive."""
    loader = torch.utils.data.DataLoader(
        Files(folder), BATCH, shuffle=True, drop_last=True, num_workers=workers, persistent_workers=True
    )
    return lambda _: sum(len(views[0]) for views in loader)


def ratios(options: SoundLoader, console: Console) -> Sequence[Ratio]:
    """Measure and print clips per second of both; their ratio with the target."""
    with tempfile.TemporaryDirectory() as folder:
        beton = write_clips(Path(folder), options.clips)
        contestants = {
            "ours": ours(beton, options.workers),
            "soundfile, DataLoader": data_loader(Path(folder) / "raw", options.workers),
        }
        rates: dict[str, list[float]] = {name: [] for name in contestants}
        for number in range(options.rounds + 1):  # the first starts what it starts
            for name, epoch in contestants.items():
                start_s = time.perf_counter()
                rates[name].append(epoch(number) / (time.perf_counter() - start_s))
    median = {name: statistics.median(values[1:]) for name, values in rates.items()}
    for name, rate in median.items():
        console.print(f"{name}: {rate:,.0f} clips/s with {options.workers} workers")
    first, second = median
    return [Ratio(f"loader of sound, {first} / {second}", median[first] / median[second], TARGET)]


def main() -> None:
    """Print the rates."""
    console = Console()
    print_ratios(ratios(tyro.cli(SoundLoader), console), console)


if __name__ == "__main__":
    main()
