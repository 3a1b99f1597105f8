"""What captions cost the loader: one crop of each photo, with and without one of its captions, from the same beton.

`python benchmarks/caption_loader.py PHOTOS` takes a folder of class folders with JPEGs and gives each photo five
made-up sentences of ten words. Both run in turns in this process; the median over the rounds is printed.
"""

from __future__ import annotations

import dataclasses
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

if __name__ == "__main__":  # the tree that this file stands in, whatever is installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
import tyro
from rich.console import Console

from benchmarks.ratios import Ratio, print_ratios
from dataprep.sources import class_folders as sources
from dataprep.writing.raw_captions import usable_captions
from dataprep.writing.write_plan import WritePlan
from dataprep.writing.writer import write_beton
from vicreg.branch_kinds import Kind
from vicreg.config import DataConfig
from vicreg.data.loaders import ViewLoader, open_views
from vicreg.presets import CAPTION_VIEW

BATCH, CAPTIONS, WORDS, VOCABULARY = 64, 5, 10, 5_000
TARGET = 0.97
"""Of the rate without captions: what is left is the noise of a machine."""


@dataclass(frozen=True)
class CaptionLoader:
    """Measure what captions cost the loader."""

    photos: tyro.conf.Positional[Path]
    """Folder with <class>/<photos>."""
    rounds: int = 5
    """How often each runs."""
    workers: int = 2
    """Decoding threads."""


def _sentences(sample: int) -> list[str]:
    random = np.random.default_rng(sample)
    return [" ".join(f"word{number}" for number in random.integers(VOCABULARY, size=WORDS)) for _ in range(CAPTIONS)]


def _loader(beton: Path, workers: int, others: Sequence[Kind]) -> ViewLoader:
    return open_views(
        DataConfig(train=str(beton)),
        beton,
        (CAPTION_VIEW,),
        seed=0,
        global_batch=BATCH,
        rank=0,
        world_size=1,
        device=torch.device("cpu"),
        workers=workers,
        others=others,
    )


def _images_per_s(loader: ViewLoader, epoch: int) -> float:
    start_s = time.perf_counter()
    with closing(loader.batches(epoch)) as batches:
        count = sum(len(batch.samples) for batch in batches)
    return count / (time.perf_counter() - start_s)


def ratios(options: CaptionLoader, console: Console) -> Sequence[Ratio]:
    """Measure and print images per second with captions and without; their ratio with the target."""
    with tempfile.TemporaryDirectory() as folder:
        beton = Path(folder) / "train.beton"
        source = sources.folder(options.photos).without_labels()
        captioned = dataclasses.replace(source, captions=lambda sample: usable_captions(_sentences(sample)))
        write_beton(captioned, beton, WritePlan("jpg", 500, 90), num_workers=0)
        kinds: dict[str, Sequence[Kind]] = {"with captions": ("text",), "without": ()}
        loaders = {name: _loader(beton, options.workers, others) for name, others in kinds.items()}
        rates: dict[str, list[float]] = {name: [] for name in loaders}
        for number in range(options.rounds + 1):  # the first starts what it starts
            for name, loader in loaders.items():
                rates[name].append(_images_per_s(loader, number))
    median = {name: statistics.median(values[1:]) for name, values in rates.items()}
    for name, rate in median.items():
        console.print(f"{name}: {rate:,.0f} images/s with {options.workers} workers")
    ratio = statistics.median(a / b for a, b in zip(*(values[1:] for values in rates.values()), strict=True))
    return [Ratio("loader of images, with captions / without, median of the rounds' ratios", ratio, TARGET)]


def main() -> None:
    """Print the rates."""
    console = Console()
    print_ratios(ratios(tyro.cli(CaptionLoader), console), console)


if __name__ == "__main__":
    main()
