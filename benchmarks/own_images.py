"""What `--recipe auto` makes of data sets that it is told nothing about, beside random weights and raw pixels.

`python benchmarks/own_images.py FOLDER ... --runs DIR` takes folders with train.beton and val.beton, runs the commands
that a user would type (pretrain, then k-NN and a regression), once per seed, and prints the table of
docs/own-images.md. --textures adds a set that is drawn here: eight kinds of texture in random colours and places. What
is in DIR already is not done again.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

if __name__ == "__main__":  # the tree that this file stands in, whatever is installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import tyro
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.table import Table

from vicreg.evals import results
from vicreg.evals.results import SUBJECTS, TRAINED

ROOT = Path(__file__).resolve().parents[1]
EVALUATIONS = ("knn", "few-labels")
KINDS = ("stripes", "checks", "rings", "dots", "rays", "waves", "blobs", "grain")
TEXTURE_PX = 32


@dataclass(frozen=True)
class OwnImages:
    """Measure the automatic recipe."""

    folders: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Folders with train.beton and val.beton."""
    runs: Path = Path("runs/own-images")
    """Where the runs go."""
    seeds: tuple[int, ...] = (0, 1)
    """One run each."""
    textures: bool = False
    """Also draw textures, and learn them."""
    options: tuple[str, ...] = ()
    """More options of jobs/pretrain.py, as NAME=VALUE: train.epochs=20."""


def texture(kind: str, seed: int) -> NDArray[np.uint8]:
    """A picture (TEXTURE_PX, TEXTURE_PX, 3) of a kind, in two random colours, turned, moved and scaled at random."""
    draw = np.random.default_rng([KINDS.index(kind), seed])
    angle, period = draw.uniform(0, 2 * np.pi), draw.uniform(5, 10)
    rows, columns = np.mgrid[:TEXTURE_PX, :TEXTURE_PX] - draw.uniform(4, TEXTURE_PX - 4, (2, 1, 1))
    x = (np.cos(angle) * columns - np.sin(angle) * rows) * 2 * np.pi / period
    y = (np.sin(angle) * columns + np.cos(angle) * rows) * 2 * np.pi / period
    coarse = draw.normal(size=(6, 6))
    shapes: dict[str, Callable[[], NDArray[np.float64]]] = {
        "stripes": lambda: np.sin(x),
        "checks": lambda: np.sign(np.sin(x)) * np.sign(np.sin(y)),
        "rings": lambda: np.sin(np.hypot(x, y)),
        "dots": lambda: np.cos(x) + np.cos(y) - 0.8,
        "rays": lambda: np.sin(6 * np.arctan2(y, x)),
        "waves": lambda: np.sin(x + 1.5 * np.sin(y / 2)),
        "blobs": lambda: np.asarray(Image.fromarray(coarse).resize((TEXTURE_PX, TEXTURE_PX), Image.Resampling.BICUBIC)),
        "grain": lambda: draw.normal(size=(TEXTURE_PX, TEXTURE_PX)),
    }
    share = 1 / (1 + np.exp(-3 * shapes[kind]()))[..., None]
    first, second = draw.uniform(0, 255, (2, 3))
    noisy = share * first + (1 - share) * second + draw.normal(0, 8, (TEXTURE_PX, TEXTURE_PX, 3))
    pixels: NDArray[np.uint8] = np.clip(noisy, 0, 255).astype(np.uint8)
    return pixels


def write_textures(folder: Path, num_train: int = 300, num_val: int = 60) -> Path:
    """Betons of textures, so many of each kind, in `folder`/betons; returns that folder."""
    betons = folder / "betons"
    if (betons / "val.beton").exists():
        return betons
    for split, first, number in (("train", 0, num_train), ("val", num_train, num_val)):
        for kind in KINDS:
            place = folder / split / kind
            place.mkdir(parents=True, exist_ok=True)
            for seed in range(first, first + number):
                Image.fromarray(texture(kind, seed)).save(place / f"{seed}.png")
    _python("dataprep/write_ffcv.py", "folder", "--root", folder, "--out", betons)
    return betons


def learn(folder: Path, run: Path, seed: int, options: tuple[str, ...]) -> float:
    """Pretrain on a folder's betons and measure; returns the seconds of pretraining, 0 where it was there already."""
    begin, was_there = time.monotonic(), (run / "encoder.pt").exists()
    more = [part for option in options for part in (f"--{option.partition('=')[0]}", option.partition("=")[2])]
    if not was_there:
        _python(
            "jobs/pretrain.py", "--cluster", "local", "--recipe", "auto", "--data.train", folder / "train.beton",
            "--run", run, "--train.seed", seed, *more,
        )  # fmt: skip
    seconds = time.monotonic() - begin
    _python("jobs/eval_all.py", run, "--cluster", "local", "--evals", *EVALUATIONS)
    return 0.0 if was_there else seconds


def accuracies(run: Path) -> dict[str, dict[str, float]]:
    """Percent of each subject by evaluation: of 20 neighbours, and of the regression on the most labels."""
    found: dict[str, dict[str, float]] = {}
    for evaluation in EVALUATIONS:
        for subject in SUBJECTS:
            result = results.read(run, evaluation, subject)
            if result:
                values = [value for name, value in result.metrics.items() if not name.endswith("_std")]
                found.setdefault(evaluation, {})[subject] = values[0 if evaluation == "knn" else -1]
    return found


def print_table(measured: dict[str, list[dict[str, dict[str, float]]]], console: Console) -> None:
    """A row for each data set, mean and spread over the seeds."""
    table = Table("data set", title="percent on validation images, mean over seeds (lowest to highest)")
    for said in ("20-NN", "regression"):
        for subject in SUBJECTS:
            table.add_column(f"{said}\n{SUBJECTS[subject]}", justify="right", no_wrap=True)
    for name, runs in measured.items():
        cells = [name]
        for evaluation in EVALUATIONS:
            for subject in SUBJECTS:
                values = [run[evaluation][subject] for run in runs if subject in run.get(evaluation, {})]
                cell = f"{statistics.mean(values):.1f}" if values else "–"
                spread = f" ({min(values):.1f}–{max(values):.1f})" if subject == TRAINED and len(values) > 1 else ""
                cells.append(cell + spread)
        table.add_row(*cells)
    console.print(table)


def _python(*command: object) -> None:
    done = subprocess.run([sys.executable, *map(str, command)], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}: {done.stderr[-2000:]}")


def main(arguments: list[str]) -> int:
    """Learn, measure, print; returns the exit code."""
    options = tyro.cli(OwnImages, args=arguments, description=__doc__)
    runs = options.runs.absolute()
    folders = [folder.absolute() for folder in options.folders]
    folders += [write_textures(runs / "textures")] if options.textures else []
    console = Console(width=160)
    measured: dict[str, list[dict[str, dict[str, float]]]] = {}
    for folder in folders:
        name = "textures" if folder == runs / "textures" / "betons" else folder.name
        for seed in options.seeds:
            run = runs / f"{name}-{seed}"
            seconds = learn(folder, run, seed, options.options)
            measured.setdefault(name, []).append(accuracies(run))
            console.print(f"{name}, seed {seed}: {seconds:.0f} s, {measured[name][-1]}", highlight=False)
    print_table(measured, console)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
