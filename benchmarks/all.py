"""Every ratio that this suite claims, measured on this machine, with its target: `make bench PHOTOS=DIR`.

One benchmark after another, nothing beside it; each prints its own tables first. Missed targets are marked and do not
change the exit code: a benchmark measures, tests judge. What is left out here has a command of its own: starts and
interruptions need a SLURM cluster (`benchmarks/cluster.py`).
"""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

if __name__ == "__main__":  # the tree that this file stands in, whatever is installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import tyro
from rich.console import Console

from benchmarks import (
    augmentation,
    caption_loader,
    checkpoint,
    commands,
    lars,
    linear_heads,
    loader,
    loss,
    order,
    report,
    sound_loader,
    startup,
    step,
    writer,
)
from benchmarks.ratios import Ratio, print_ratios
from border.waiting_threads import wait_asleep

Measure = Callable[[Path, Console], Sequence[Ratio]]


@dataclass(frozen=True)
class All:
    """Measure everything."""

    photos: tyro.conf.Positional[Path]
    """Folder with <class>/<photos>, JPEGs of some hundred pixels a side; a few hundred are enough."""
    only: tuple[str, ...] = ()
    """Names of the benchmarks to run, such as writer loader; all if none is named."""


def _writer(photos: Path, console: Console) -> Sequence[Ratio]:
    return writer.ratios(writer.Writer(photos), console)


def _loader(photos: Path, console: Console) -> Sequence[Ratio]:
    return loader.ratios(loader.Loader(photos), console)


def _caption_loader(photos: Path, console: Console) -> Sequence[Ratio]:
    return caption_loader.ratios(caption_loader.CaptionLoader(photos), console)


def _sound_loader(_: Path, console: Console) -> Sequence[Ratio]:
    return sound_loader.ratios(sound_loader.SoundLoader(), console)


def _order(photos: Path, console: Console) -> Sequence[Ratio]:
    return order.ratios(order.Order(photos), console)


def _commands(_: Path, console: Console) -> Sequence[Ratio]:
    return commands.ratios(commands.Commands(), console)


def _startup(_: Path, console: Console) -> Sequence[Ratio]:
    return startup.ratios(startup.Startup(), console)


def _augmentation(photos: Path, console: Console) -> Sequence[Ratio]:
    return augmentation.ratios(augmentation.Parts(photos), console)


def _loss(_: Path, console: Console) -> Sequence[Ratio]:
    return loss.ratios(loss.Loss(), console)


def _lars(_: Path, console: Console) -> Sequence[Ratio]:
    return lars.ratios(lars.Step(), console)


def _checkpoint(_: Path, console: Console) -> Sequence[Ratio]:
    return checkpoint.ratios(checkpoint.Checkpoint(), console)


def _step(_: Path, console: Console) -> Sequence[Ratio]:
    return step.ratios(step.Step(), console)


def _linear_heads(_: Path, console: Console) -> Sequence[Ratio]:
    return linear_heads.ratios(linear_heads.Grid(), console)


def _report(_: Path, console: Console) -> Sequence[Ratio]:
    return report.ratios(report.Report(), console)


BENCHMARKS: dict[str, Measure] = {
    "writer": _writer,
    "loader": _loader,
    "caption_loader": _caption_loader,
    "sound_loader": _sound_loader,
    "order": _order,
    "startup": _startup,
    "commands": _commands,
    "augmentation": _augmentation,
    "loss": _loss,
    "lars": _lars,
    "checkpoint": _checkpoint,
    "step": _step,
    "linear_heads": _linear_heads,
    "report": _report,
}


def run(name: str, photos: Path) -> Sequence[Ratio]:
    """One benchmark, its tables printed."""
    console = Console()
    console.rule(f"[bold]{name}")
    return BENCHMARKS[name](photos, console)


def main(options: All) -> int:
    """Run the benchmarks, each in a process of its own, and print all ratios; returns the exit code."""
    unknown = [name for name in options.only if name not in BENCHMARKS]
    if unknown:
        print(f"error: only is {' '.join(unknown)}, allowed: {' '.join(BENCHMARKS)}", file=sys.stderr)
        return 1
    if not options.photos.is_dir():
        print(f"error: {options.photos} is no folder; allowed: a folder with <class>/<photos>", file=sys.stderr)
        return 1
    wait_asleep()  # as the commands do
    context = multiprocessing.get_context("spawn")
    found: list[Ratio] = []
    for name in options.only or BENCHMARKS:
        with ProcessPoolExecutor(1, mp_context=context) as process:
            found += process.submit(run, name, options.photos).result()
    console = Console()
    console.rule("[bold]all ratios")
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    print_ratios(found, console, f"torch {torch.__version__}, {device}")
    missed = sum(not ratio.is_reached for ratio in found)
    console.print(f"{len(found) - missed} of {len(found)} targets reached", highlight=False)
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(All)))
