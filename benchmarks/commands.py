"""Start-up of every command: CPU seconds of its help, of what is refused, and of a dry run, beside `import torch`.

`python benchmarks/commands.py` needs no data: it writes digits, and makes a run with random weights to look at. Each
measurement is a process of its own, user and system time together, median of three in turns.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

if __name__ == "__main__":  # the tree that this file stands in, whatever is installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.ratios import Ratio, print_ratios

ROOT = Path(__file__).resolve().parents[1]
MAX_SAYING_S, MAX_DRY_RUN_S = 1.5, 4.0
DATA = ("--data.train", "digits/train.beton", "--data.val", "digits/val.beton")
RUN = "runs/random"
HELP, OPTION, VALUE, DRY_RUN = "help", "wrong option", "wrong value", "dry run"
SAYING = (HELP, OPTION, VALUE)
IMPORT_TORCH = "import torch"

WRONG_VALUES: dict[str, tuple[str, ...]] = {
    "jobs/pretrain.py": ("--recipe", "digits", *DATA, "--then-eval", "--set", "linear.epochs=many"),
    "jobs/eval_all.py": (RUN, "--set", "knn.neighbours=0"),
    "jobs/embed.py": (RUN, "--images", "digits/val.beton", "--out", "features.txt"),
    "jobs/search.py": (RUN, "--gallery", "digits/val.beton", "--query", "missing.jpg"),
    "jobs/export_encoder.py": (RUN, "--format", "onnx", "--out", "out.onnx", "--encoder", "c"),
    "jobs/import_encoder.py": ("missing.pt", "--run", "runs/imported"),
    "jobs/report.py": ("missing",),
    "jobs/status.py": ("missing",),
    "jobs/board.py": ("missing",),
    "dataprep/write_ffcv.py": ("digits", "--out", "out", "--quality", "high"),
}
DRY_RUNS: dict[str, tuple[str, ...]] = {
    "jobs/pretrain.py": ("--recipe", "imagenet-1000ep", "--dry-run"),
    "jobs/eval_all.py": (RUN, "--evals", "knn", "linear", "--dry-run"),
    "jobs/embed.py": (RUN, "--images", "digits/val.beton", "--out", "features.npy", "--dry-run"),
    "jobs/status.py": (),  # a look at one run without jobs
}


@dataclass(frozen=True)
class Commands:
    """Measure the start-up of every command."""

    repeats: int = 3
    """Measurements of each, of which the median counts."""


def cpu_seconds(arguments: Sequence[str], folder: Path) -> float:
    """User and system time of one Python process; RuntimeError where it ended by an exception."""
    environment = {**os.environ, "VICREG_CLUSTER": "local", "COLUMNS": "80", "PYTHONPATH": str(ROOT)}
    with (folder / "said.txt").open("w+") as said:
        process = subprocess.Popen([sys.executable, *arguments], cwd=folder, env=environment, stdout=said, stderr=said)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        if "Traceback" in (text := said.read()):
            raise RuntimeError(text)
    return usage.ru_utime + usage.ru_stime


def prepare(folder: Path) -> None:
    """Digits as betons, and a finished run with random weights."""
    for split in ("train", "val"):
        cpu_seconds([str(ROOT / "dataprep/write_ffcv.py"), "digits", "--out", "digits", "--split", split], folder)
    words = ("--random", "--recipe", "digits", "--run", RUN, *DATA)
    cpu_seconds([str(ROOT / "jobs/import_encoder.py"), *words], folder)


def measure(folder: Path, repeats: int) -> dict[tuple[str, str], float]:
    """Seconds by command and what is asked of it; those of `import torch` by its name and nothing."""
    asked: dict[tuple[str, str], list[str]] = {(IMPORT_TORCH, ""): ["-c", "import torch"]}
    for script, wrong in WRONG_VALUES.items():
        whole = str(ROOT / script)
        asked |= {(script, HELP): [whole, "--help"], (script, OPTION): [whole, "--no-such-option"]}
        asked[script, VALUE] = [whole, *wrong]
        if script in DRY_RUNS:
            asked[script, DRY_RUN] = [whole, *DRY_RUNS[script]]
    rounds = [{key: cpu_seconds(words, folder) for key, words in asked.items()} for _ in range(repeats)]
    return {key: median(each[key] for each in rounds) for key in asked}


def print_seconds(found: dict[tuple[str, str], float], console: Console) -> None:
    """A row for each command."""
    table = Table("command", title="CPU seconds; status: a look at a run without jobs")
    for heading in (*SAYING, DRY_RUN):
        table.add_column(heading, justify="right")
    for script in WRONG_VALUES:
        seconds = [found.get((script, what)) for what in (*SAYING, DRY_RUN)]
        table.add_row(script, *("" if value is None else f"{value:.2f}" for value in seconds))
    table.add_row(f'python -c "{IMPORT_TORCH}"', *[""] * len(SAYING), f"{found[IMPORT_TORCH, '']:.2f}")
    console.print(table)


def ratios(options: Commands, console: Console) -> list[Ratio]:
    """Measure and print; what was reached, with its targets."""
    with tempfile.TemporaryDirectory(prefix="commands-bench-") as name:
        folder = Path(name)
        prepare(folder)
        found = measure(folder, options.repeats)
    print_seconds(found, console)
    saying = max(seconds for (_, what), seconds in found.items() if what in SAYING)
    dry_run = max(seconds for (_, what), seconds in found.items() if what == DRY_RUN)
    return [
        Ratio("help and refusals, CPU seconds at most", saying, MAX_SAYING_S, at_least=False),
        Ratio("dry runs, CPU seconds at most", dry_run, MAX_DRY_RUN_S, at_least=False),
    ]


def main(options: Commands) -> None:
    """Print the tables."""
    console = Console()
    print_ratios(ratios(options, console), console)


if __name__ == "__main__":
    main(tyro.cli(Commands))
