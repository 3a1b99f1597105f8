"""Start-up on a beton of ImageNet's number of samples: seconds and memory of one rank up to its first batch.

`python benchmarks/startup.py` needs no data: it writes a beton of tiny images. Each measurement is a process of its
own, which imports the loader, opens the beton and takes the first batch of 64 as rank 0 of 32. Beside it: a process
that only imports (nearly all of its memory is torch's), and one with a beton of 4,096 samples, which shows what is the
number of samples' doing.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

if __name__ == "__main__":  # the tree that this file stands in, whatever is installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.ratios import Ratio, print_ratios
from benchmarks.synthetic_beton import tiny_jpeg, write_synthetic

ROOT = Path(__file__).parents[1]
FEW = 4096
MAX_S, MAX_MB = 10.0, 300.0
CHILD = """
import json, sys, time
start_s = time.perf_counter()
import torch
torch_s = time.perf_counter() - start_s
from pathlib import Path
from vicreg.config import DataConfig, official_views
from vicreg.data.loaders import open_views

path, order = sys.argv[1:]
begin_s = time.perf_counter()
opened_s = first_s = begin_s
if path:
    cpu = torch.device("cpu")
    ranks = dict(seed=0, global_batch=2048, rank=0, world_size=32, device=cpu, workers=2)
    loader = open_views(DataConfig(order=order), Path(path), official_views(), **ranks)
    opened_s = time.perf_counter()
    batches = loader.batches(0)
    assert len(next(batches).samples) == 64
    first_s = time.perf_counter()
    batches.close()
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
peak_mb = int(status["VmHWM"].split()[0]) * 1024 / 1e6
print(json.dumps([torch_s, opened_s - begin_s, first_s - opened_s, peak_mb]))
"""


@dataclass(frozen=True)
class Startup:
    """Measure the start of one rank."""

    samples: int = 1_280_000
    """Samples of the beton."""


@dataclass(frozen=True)
class Start:
    """One start; seconds, megabytes."""

    total_s: float
    """From the start of the process to its end."""
    torch_s: float
    open_s: float
    first_batch_s: float
    peak_mb: float


def measure(path: str, order: str = "shuffled") -> Start:
    """One start; an empty path for one that only imports."""
    begin_s = time.perf_counter()
    child = subprocess.run(
        [sys.executable, "-c", CHILD, path, order], cwd=ROOT, check=True, capture_output=True, text=True
    )
    total_s = time.perf_counter() - begin_s
    return Start(total_s, *json.loads(child.stdout.splitlines()[-1]))


def measure_all(folder: Path, samples: int) -> dict[str, Start]:
    """All starts, by what they are."""
    many, few = folder / "many.beton", folder / "few.beton"
    for path, num in ((many, samples), (few, FEW)):
        write_synthetic(path, [tiny_jpeg()], np.arange(num) % 1000, 8, raw=False)
    measure("")  # fills the file cache
    return {
        "imports only": measure(""),
        f"{FEW:,} samples": measure(str(few)),
        f"{samples:,} samples, shuffled": measure(str(many)),
        f"{samples:,} samples, blocks": measure(str(many), "blocks"),
    }


def reached(starts: dict[str, Start]) -> list[Ratio]:
    """What was reached: the slowest start, and the largest that a beton adds to what the imports take."""
    imports, *others = starts.values()
    slowest_s, peak_mb = max(start.total_s for start in others), max(start.peak_mb for start in others)
    return [
        Ratio("from start to the first batch and out, seconds", slowest_s, MAX_S, at_least=False),
        Ratio("peak beyond that of the imports, MB", peak_mb - imports.peak_mb, MAX_MB, at_least=False),
    ]


def print_starts(starts: dict[str, Start], console: Console) -> None:
    """Seconds and megabytes of every start."""
    table = Table("one rank, batch of 64", title="start-up")
    for heading in ("in all s", "import torch s", "open s", "first batch s", "peak MB", "beyond imports MB"):
        table.add_column(heading, justify="right")
    for what, start in starts.items():
        seconds = (start.total_s, start.torch_s, start.open_s, start.first_batch_s)
        memory = (start.peak_mb, start.peak_mb - starts["imports only"].peak_mb)
        table.add_row(what, *(f"{value:.2f}" for value in seconds), *(f"{value:.0f}" for value in memory))
    console.print(table)


def ratios(options: Startup, console: Console) -> list[Ratio]:
    """Measure and print; what was reached, with its targets."""
    with tempfile.TemporaryDirectory(prefix="startup-bench-") as folder:
        starts = measure_all(Path(folder), options.samples)
    print_starts(starts, console)
    return reached(starts)


def main(options: Startup) -> None:
    """Print the tables."""
    console = Console()
    print_ratios(ratios(options, console), console)


if __name__ == "__main__":
    main(tyro.cli(Startup))
