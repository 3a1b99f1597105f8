"""Time and memory of a report's look at training, beside understanding every line of metrics.jsonl.

`python benchmarks/report.py` writes a metrics.jsonl of 500 MB to a temporary folder, as a run of months leaves it, and
reads it in processes of their own.
"""

from __future__ import annotations

import json
import multiprocessing
import random
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

if __name__ == "__main__":  # the tree that this file stands in, whatever is installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.ratios import Ratio, print_ratios
from jobs.reporting import training_lines
from vicreg.run_files import METRICS_FILE, read_metrics

MAX_S, MAX_MB = 5.0, 200.0
FIELDS = ["loss", "invariance", "variance", "covariance", "embedding_std", "effective_rank", "learning_rate"]
FIELDS += ["images_per_s", "data_wait_share", "model_tflops", "mfu", "step_ms_p50", "step_ms_p95", "elapsed_s"]


@dataclass(frozen=True)
class Report:
    """Measure the reading of metrics.jsonl."""

    size_mb: int = 500
    """Of the file."""


def write_lines(path: Path, num_bytes: int) -> int:
    """A file of at least so many bytes; every thousandth line has what is measured now and then. Their number."""
    draw, step, size = random.Random(0), 0, 0
    with path.open("wb") as file:
        while size < num_bytes:
            line = {"step": step * 20, "epoch": step * 20 // 1000} | {name: draw.random() for name in FIELDS}
            if step % 1000 == 999:
                line["knn_top1"] = draw.random()
            size += file.write(json.dumps(line | {"skipped_steps": 0}).encode() + b"\n")
            step += 1
    return step


def _every_line(run: Path) -> int:
    return len(read_metrics(run))


def _report(run: Path) -> int:
    return len(training_lines.read(run).lines)


READERS: dict[str, Callable[[Path], int]] = {"every line": _every_line, "the report": _report}


def measure(name: str, run: Path) -> tuple[float, float, int]:
    """Seconds, megabytes more than before, and lines of one reader; in a process of its own."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start_s = time.perf_counter()
    lines = READERS[name](run)
    seconds = time.perf_counter() - start_s
    return seconds, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / 1e6, lines


def ratios(options: Report, console: Console) -> Sequence[Ratio]:
    """Measure and print; the report's time and memory with their targets."""
    table = Table(title=f"metrics.jsonl of {options.size_mb} MB")
    for heading in ("read by", "s", "MB", "lines held"):
        table.add_column(heading, justify="left" if heading == "read by" else "right")
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder)
        write_lines(run / METRICS_FILE, options.size_mb * 10**6)
        for name in READERS:
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
                found[name] = process.submit(measure, name, run).result()
            seconds, megabytes, lines = found[name]
            table.add_row(name, f"{seconds:.1f}", f"{megabytes:,.0f}", f"{lines:,}")
    console.print(table)
    seconds, megabytes, _ = found["the report"]
    scale = options.size_mb / 500
    return [
        Ratio("report of a long run, 5 s a 500 MB of metrics / seconds", MAX_S * scale / seconds, 1.0),
        Ratio("report of a long run, 200 MB / memory", MAX_MB / max(megabytes, 1.0), 1.0),
    ]


def main() -> None:
    """Print the tables."""
    console = Console()
    print_ratios(ratios(tyro.cli(Report), console), console)


if __name__ == "__main__":
    main()
