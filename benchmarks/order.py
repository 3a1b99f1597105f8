"""The order with locality beside the full shuffle: how varied its batches are, what it reads, how fast it is.

`python benchmarks/order.py` needs no data: a beton sorted by class, with ImageNet's number of classes and images, is
stood for by its labels and sizes. Variety is the entropy of the classes within a batch, and within 16 successive ones,
which draw on the same blocks. Read amplification is what a rank reads over what it uses. With a folder of class folders
with JPEGs, or a beton, both orders are also timed from the file cache.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

if __name__ == "__main__":  # the tree that this file stands in, whatever is installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
import tyro
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.ratios import Ratio, print_ratios
from dataprep.beton.contract import open_beton
from dataprep.sources import class_folders as sources
from dataprep.writing.write_plan import WritePlan
from dataprep.writing.writer import write_beton
from vicreg.config import DataConfig, each_view, official_views
from vicreg.data.batches import Sampling
from vicreg.data.loaders import BetonViews

NUM_CLASSES, PER_CLASS, GLOBAL_BATCH = 1000, 1281, 2048
BLOCKS = (16, 32, 64, 256)
RANKS = (1, 8, 32)
IMAGE_BYTES = (20_000, 200_000)
"""Smallest and largest stored image, evenly spread: 110 kB on average, as ImageNet's."""
TOGETHER = 16
MIN_ENTROPY, MAX_READ, MIN_SPEED = 0.98, 1.05, 0.95
BATCH, MIN_IMAGES = 64, 12_000
"""An epoch with blocks begins by reading one for each sample of a batch, 2,048 images: that must not be all of it."""
SHUFFLED = 0


@dataclass(frozen=True)
class Order:
    """Measure the order with locality."""

    photos: tyro.conf.Positional[Path | None] = None
    """Folder with <class>/<photos>, or a beton of JPEGs."""
    rounds: int = 3
    """How often each order is timed."""
    workers: int = 2
    """Decoding threads."""


@dataclass(frozen=True)
class Variety:
    """Classes within the batches of an epoch."""

    mean_bits: float
    min_bits: float
    classes: float
    """Mean number of classes in a batch."""
    together_bits: float
    """Mean entropy of `TOGETHER` successive batches taken as one."""


def _sampling(block_samples: int, rank: int = 0, world_size: int = 1) -> Sampling:
    samples, each = np.arange(NUM_CLASSES * PER_CLASS), each_view(official_views(), DataConfig.image_size)
    return Sampling(samples, each, 0, GLOBAL_BATCH, rank, world_size, block_samples=block_samples)


def _class_counts(labels: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    for batch in labels:
        yield np.bincount(batch, minlength=NUM_CLASSES)


def _bits(counts: NDArray[np.int64]) -> float:
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log2(shares)).sum())


def variety(block_samples: int) -> Variety:
    """Of the first epoch."""
    labels = _sampling(block_samples).places(0) // PER_CLASS
    counts = list(_class_counts(labels))
    entropies = [_bits(count) for count in counts]
    together = labels[: len(labels) // TOGETHER * TOGETHER].reshape(-1, TOGETHER * GLOBAL_BATCH)
    return Variety(
        mean_bits=statistics.mean(entropies),
        min_bits=min(entropies),
        classes=statistics.mean(int((count > 0).sum()) for count in counts),
        together_bits=statistics.mean(_bits(count) for count in _class_counts(together)),
    )


def read_amplification(block_samples: int, world_size: int) -> float:
    """Bytes that rank 0 reads in an epoch over the bytes of its samples; images lie in the file one after the other."""
    sampling = _sampling(block_samples, 0, world_size)
    sizes = np.random.default_rng(0).integers(*IMAGE_BYTES, len(sampling.samples))
    ends = np.cumsum(sizes)
    lanes = sampling.places(0).T
    blocks = lanes // sampling.block_size
    begins = np.ones_like(blocks, dtype=bool)
    begins[:, 1:] = blocks[:, 1:] != blocks[:, :-1]
    parts, places = np.flatnonzero(begins), lanes.ravel()
    last, first = np.maximum.reduceat(places, parts), np.minimum.reduceat(places, parts)
    return float((ends[last] - ends[first] + sizes[first]).sum() / sizes[places].sum())


def measure_speed(photos: Path, options: Order) -> dict[str, float]:
    """Images per second of both orders, decoding and cropping, the median of the rounds."""
    with tempfile.TemporaryDirectory(prefix="order-bench-") as folder:
        beton = photos if photos.is_file() else _write(photos, Path(folder))
        opened = open_beton(beton)
        loaders = {}
        each = each_view(official_views(), DataConfig.image_size)
        for name, block_samples in (("shuffled", SHUFFLED), ("blocks", DataConfig().block_samples)):
            samples = np.argsort(opened.pointers, kind="stable")
            sampling = Sampling(samples, each, 0, BATCH, on_cpu=True, block_samples=block_samples)
            cpu = torch.device("cpu")
            loaders[name] = BetonViews(opened, sampling, DataConfig(), device=cpu, workers=options.workers)
        rates: dict[str, list[float]] = {name: [] for name in loaders}
        for epoch in range(options.rounds + 1):
            for name, loader in loaders.items():
                start_s = time.perf_counter()
                num = sum(len(batch.samples) for batch in loader.batches(epoch))
                if epoch:
                    rates[name].append(num / (time.perf_counter() - start_s))
    return {name: statistics.median(each) for name, each in rates.items()}


def _write(photos: Path, folder: Path) -> Path:
    """A beton of the photos at 500 px, each as often as it takes to have `MIN_IMAGES`."""
    files = sorted(path for path in photos.glob("*/*") if path.is_file())
    for copy in range(-(-MIN_IMAGES // len(files))):
        for path in files:
            link = folder / "raw" / path.parent.name / f"{copy}_{path.name}"
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path.resolve())
    beton = folder / "photos.beton"
    write_beton(sources.folder(folder / "raw"), beton, WritePlan("jpg", 500, 90), num_workers=2)
    return beton


def reached(
    varieties: dict[int, Variety], read: dict[tuple[int, int], float], speed: dict[str, float] | None
) -> list[Ratio]:
    """What was reached by the blocks that are the default."""
    default, full = DataConfig().block_samples, varieties[SHUFFLED].mean_bits
    found = [
        Ratio("blocks / shuffled, mean class entropy", varieties[default].mean_bits / full, MIN_ENTROPY),
        Ratio("blocks / shuffled, least class entropy", varieties[default].min_bits / full, MIN_ENTROPY),
        Ratio("bytes read / bytes used", max(read[default, ranks] for ranks in RANKS), MAX_READ, at_least=False),
    ]
    if speed:
        found.append(Ratio("blocks / shuffled, images per second", speed["blocks"] / speed["shuffled"], MIN_SPEED))
    return found


def print_varieties(varieties: dict[int, Variety], read: dict[tuple[int, int], float], console: Console) -> None:
    """Entropy and read amplification of every size of blocks."""
    title = f"{NUM_CLASSES:,} classes of {PER_CLASS:,}, sorted; global batch {GLOBAL_BATCH}"
    table = Table("block", title=title)
    for heading in ("bits, mean", "least", f"{TOGETHER} together", "classes", *(f"read, {n} ranks" for n in RANKS)):
        table.add_column(heading, justify="right")
    for block_samples, found in varieties.items():
        bits = (found.mean_bits, found.min_bits, found.together_bits)
        bytes_read = (read.get((block_samples, ranks)) for ranks in RANKS)
        cells = [*(f"{value:.3f}" for value in bits), f"{found.classes:.0f}"]
        cells += [f"{value:.3f}" if value else "-" for value in bytes_read]
        table.add_row(str(block_samples) if block_samples else "shuffled", *cells)
    console.print(table)


def ratios(options: Order, console: Console) -> list[Ratio]:
    """Measure and print; what was reached, with its targets."""
    varieties = {block_samples: variety(block_samples) for block_samples in (SHUFFLED, *BLOCKS)}
    read = {(block, ranks): read_amplification(block, ranks) for block in BLOCKS for ranks in RANKS}
    print_varieties(varieties, read, console)
    speed = measure_speed(options.photos, options) if options.photos else None
    if speed:
        console.print(", ".join(f"{name}: {rate:,.0f} images/s" for name, rate in speed.items()))
    return reached(varieties, read, speed)


def main(options: Order) -> None:
    """Print the tables."""
    console = Console()
    print_ratios(ratios(options, console), console)


if __name__ == "__main__":
    main(tyro.cli(Order))
