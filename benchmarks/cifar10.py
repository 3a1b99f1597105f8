"""Learning as well as published: recipe cifar10 in pieces of a few minutes, beside a plain program of the same recipe.

`python benchmarks/cifar10.py --minutes 8 --run DIR` trains for so long, or until the recipe's end, and prints accuracy
against epochs and seconds; the same command goes on from there, bit for bit. With --plain the minutes go to
`benchmarks/plain_cifar10.py`, for comparison. DIR/pieces has what another machine needs to go on, in files of at most
15 MiB: copy that folder. Data: betons of CIFAR-10 (`dataprep/write_ffcv.py cifar10`). --small is a narrow network for
a few epochs, for CPUs; a few thousand images are enough for it.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # the tree that this file stands in, whatever is installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks import plain_cifar10
from dataprep.beton.contract import BetonError, open_beton
from jobs.planning.recipes import recipe
from vicreg import checkpoint
from vicreg.config import ModelConfig, PretrainConfig
from vicreg.data.decode import ImageReader
from vicreg.ranks.distributed import Placement
from vicreg.run_files import METRICS_FILE, read_metrics
from vicreg.training.train import CHECKPOINTS, Outcome, train

PIECE_BYTES = 15 * 2**20
PIECES = "pieces"
PUBLISHED = "92.07 % online after 1,000 epochs (solo-learn's README; the original CIFAR-10, not JPEGs of it)"
SMALL_EPOCHS = 10
RECIPES = ("cifar10", "cifar10-300ep")
COLUMNS = {"online": ("online_top1", 2), "k-NN": ("knn_top1", 2), "s": ("elapsed_s", 0)}
"""Of the table: field of a measurement, and its digits."""


@dataclass(frozen=True)
class Scale:
    """The recipe, or a form of it that a CPU can do, for both programs."""

    config: PretrainConfig
    plain: plain_cifar10.Settings


def scale(data: Path, small: bool, epochs: int = SMALL_EPOCHS, compiled: bool = False, name: str = RECIPES[0]) -> Scale:
    """What both programs are to do with the betons in a folder."""
    on_gpu = torch.cuda.is_available()
    config = recipe(name).pretrain
    config = replace(
        config,
        data=replace(config.data, train=str(data / "train.beton"), val=str(data / "val.beton")),
        train=replace(config.train, keep_checkpoints=1, joint_views=on_gpu, compile=on_gpu and compiled),
    )
    workers = len(os.sched_getaffinity(0))
    plain = plain_cifar10.Settings(workers=workers, epochs=config.train.epochs)
    if small:
        config = replace(
            config,
            model=ModelConfig("resnet10-narrow", small_images=True, expander="256-256-256"),
            optimizer=replace(config.optimizer, warmup_epochs=1.0),
            train=replace(config.train, epochs=epochs, global_batch=128, joint_views=False),
            online=replace(config.online, every_epochs=max(1, epochs // 5)),
        )
        plain = plain_cifar10.Settings(
            epochs=epochs,
            batch=128,
            warm_up_epochs=1.0,
            width=16,
            stem_padding=1,
            blocks=(1, 1, 1, 1),
            expander=(256, 256, 256),
            every_epochs=max(1, epochs // 5),
            workers=workers,
        )
    return Scale(config, plain)


def train_ours(config: PretrainConfig, run: Path, should_stop: Callable[[int], bool], console: Console) -> Outcome:
    """Train with the suite itself; `should_stop` is asked after every step."""
    run.mkdir(parents=True, exist_ok=True)
    return train(config, run, Placement(0, 1, 0, 1), should_stop, console)


def train_plain(settings: plain_cifar10.Settings, config: PretrainConfig, run: Path, go_on: Callable[[], bool]) -> None:
    """Train with the plain program; `go_on` is asked before every epoch."""
    splits = {"train": _images(Path(config.data.train)), "val": _images(Path(config.data.val))}
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    plain_cifar10.train(settings, splits, run / "plain.pt", device, go_on)


def _images(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    opened = open_beton(path)
    reader = ImageReader(opened)
    return np.stack([reader.read(sample).copy() for sample in range(opened.num_samples)]), np.asarray(opened.labels)


def accuracies(run: Path) -> dict[str, list[dict[str, Any]]]:
    """What was measured so far by both programs, as {"epoch", "online_top1", "knn_top1", "elapsed_s"}."""
    ours = [line | {"epoch": line["epoch"] + 1} for line in read_metrics(run) if "online_top1" in line]
    plain = run / "plain.pt"
    theirs = torch.load(plain, map_location="cpu", weights_only=True)["measured"] if plain.exists() else []
    return {"suite": ours, "plain": theirs}


def print_accuracies(run: Path, console: Console) -> None:
    """A row for each measured epoch."""
    measured = accuracies(run)
    table = Table("epoch", title="validation top-1 in percent")
    for name in measured:
        for heading in COLUMNS:
            table.add_column(f"{name}\n{heading}", justify="right", no_wrap=True)
    by_epoch = {name: {line["epoch"]: line for line in lines} for name, lines in measured.items()}
    for epoch in sorted({epoch for lines in by_epoch.values() for epoch in lines}):
        cells: list[str] = []
        for lines in by_epoch.values():
            line = lines.get(epoch)
            cells += [f"{line[field]:,.{digits}f}" if line else "" for field, digits in COLUMNS.values()]
        table.add_row(str(epoch), *cells)
    console.print(table)
    console.print(f"published: {PUBLISHED}", style="dim", highlight=False)


def split(source: Path, folder: Path) -> None:
    """A file in pieces NAME.000, NAME.001 ... of at most `PIECE_BYTES`, in the place of earlier ones."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob(f"{source.name}.[0-9][0-9][0-9]"):
        old.unlink()
    with source.open("rb") as file:
        for number, part in enumerate(iter(lambda: file.read(PIECE_BYTES), b"")):
            (folder / f"{source.name}.{number:03d}").write_bytes(part)


def join(folder: Path, target: Path) -> bool:
    """The file again; False where there are no pieces of it."""
    pieces = sorted(folder.glob(f"{target.name}.[0-9][0-9][0-9]"))
    if not pieces:
        return False
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_suffix(".tmp")
    with beside.open("wb") as file:
        for piece in pieces:
            file.write(piece.read_bytes())
    beside.replace(target)
    return True


def pack(run: Path) -> None:
    """Lay what another machine needs into the folder of pieces."""
    newest = checkpoint.list_checkpoints(run / CHECKPOINTS)[-1:]
    for path in [*(newest[0].iterdir() if newest else ()), run / METRICS_FILE, run / "plain.pt"]:
        if path.exists():
            split(path, run / PIECES)
    if newest:
        (run / PIECES / "step").write_text(newest[0].name)


def unpack(run: Path) -> None:
    """Where a run has pieces only, make it whole."""
    step = run / PIECES / "step"
    if step.exists() and not checkpoint.list_checkpoints(run / CHECKPOINTS):
        newest = run / CHECKPOINTS / step.read_text()
        for name in (checkpoint.STATE_FILE, checkpoint.MANIFEST_FILE):
            join(run / PIECES, newest / name)
        join(run / PIECES, run / METRICS_FILE)
    if not (run / "plain.pt").exists():
        join(run / PIECES, run / "plain.pt")


def main(arguments: list[str]) -> int:
    """Train a piece, print; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=8.0, help="how long to train (default: 8)")
    parser.add_argument("--run", type=Path, required=True, help="folder of the run")
    parser.add_argument("--data", type=Path, default=Path("data/cifar10"), help="folder of train.beton and val.beton")
    parser.add_argument("--plain", action="store_true", help="train the plain program, not the suite's")
    parser.add_argument("--compile", action="store_true", help="pass the network through torch.compile, on a GPU")
    parser.add_argument("--small", action="store_true", help="narrow network, few epochs: for CPUs")
    parser.add_argument("--epochs", type=int, default=SMALL_EPOCHS, help="of the small form (default: 10)")
    parser.add_argument("--recipe", choices=RECIPES, default=RECIPES[0], help="which of 1,000 epochs and of 300")
    options = parser.parse_args(arguments)
    console = Console()
    end_s = time.monotonic() + 60 * options.minutes
    both = scale(options.data, options.small, options.epochs, options.compile, options.recipe)
    try:
        unpack(options.run)
        if options.plain:
            train_plain(both.plain, both.config, options.run, lambda: time.monotonic() < end_s)
        else:
            train_ours(both.config, options.run, lambda _: time.monotonic() > end_s, console)
    except (BetonError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    pack(options.run)
    print_accuracies(options.run, console)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
