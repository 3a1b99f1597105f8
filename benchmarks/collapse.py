"""The spread of embeddings over epochs, with and without VICReg's variance term: figure 4 of its paper in small.

`python benchmarks/collapse.py IMAGES --run DIR --figure FILE.svg` trains SimSiam as it is, and without predictor and
batch norm in its expander, each with the term and without, on the small form of `benchmarks/methods.py`, and draws the
embeddings' standard deviation over the epochs. The same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # the tree that this file stands in, whatever is installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import matplotlib as mpl
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from benchmarks.methods_learn import betons
from benchmarks.small_methods import small
from dataprep.beton.contract import BetonError
from vicreg import methods
from vicreg.config import DataConfig, PretrainConfig
from vicreg.ranks.distributed import Placement
from vicreg.run_files import read_metrics
from vicreg.training.train import train

TERM, DIMS = "embedding_std", 256
KINDS: dict[str, dict[str, Any]] = {
    "SimSiam": {},
    "without predictor and batch norm": {"predictor_width": 0},
}
TERM_OF_DIRECTIONS = {"spread_of": "normalised", "variance_weight": DIMS**0.5}
"""Of directions, as the spread that is drawn: raw embeddings could each vary by 1 about a distant mean. The
hinge stands at 1 / sqrt(D), so this weight is the paper's 1 for a hinge at 1."""
BLUE, ORANGE = "#0072b2", "#d55e00"  # told apart by most eyes, on white


def config_of(kind: str, has_term: bool, data: DataConfig, epochs: int) -> PretrainConfig:
    """A run of SimSiam, with the variance term or without."""
    config = small("simsiam", data, epochs)
    settings = KINDS[kind] | (TERM_OF_DIRECTIONS if has_term else {})
    bare = dataclasses.replace(config.model, expander_norm="none", expander_bias="all")
    return dataclasses.replace(
        config,
        method=dataclasses.replace(config.method, **settings),
        model=bare if KINDS[kind] else config.model,
        train=dataclasses.replace(config.train, log_every_steps=5),
        online=dataclasses.replace(config.online, every_epochs=0),
    )


def spread(config: PretrainConfig, run: Path) -> tuple[list[float], list[float]]:
    """Epochs and the embeddings' spread, of a run that is trained to its end."""
    run.mkdir(parents=True, exist_ok=True)
    train(config, run, Placement(0, 1, 0, 1), lambda _: False, Console(quiet=True))
    lines = [line for line in read_metrics(run) if TERM in line]
    steps_per_epoch = lines[-1]["step"] / config.train.epochs
    return [line["step"] / steps_per_epoch for line in lines], [line[TERM] for line in lines]


def draw(curves: dict[tuple[str, bool], tuple[list[float], list[float]]], file: Path) -> None:
    """A panel for each kind; on white, so that it can be read on a dark page too."""
    with mpl.rc_context({"svg.hashsalt": "collapse", "font.size": 9, "axes.spines.top": False}):
        figure = Figure(figsize=(7, 2.6), layout="constrained", facecolor="white")
        panels = figure.subplots(1, len(KINDS), sharey=True)
        for panel, kind in zip(panels, KINDS, strict=True):
            for has_term, colour, label in ((True, BLUE, "with the variance term"), (False, ORANGE, "without")):
                panel.plot(*curves[kind, has_term], color=colour, label=label)
            panel.set(title=kind, xlabel="epoch", ylim=(0, 1.05))
            panel.spines["right"].set_visible(False)
        panels[0].set_ylabel("spread of the embeddings")
        panels[0].legend(loc="lower right", frameon=False)
        figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else None)


def main(arguments: list[str]) -> int:
    """Train, print, draw; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, help="folder with train/<class>/ and test/<class>/")
    parser.add_argument("--run", type=Path, default=Path("runs/collapse"), help="folder of the runs")
    parser.add_argument("--epochs", type=int, default=10, help="of each run")
    parser.add_argument("--figure", type=Path, help="where to draw it: .svg or .png")
    options = parser.parse_args(arguments)
    limit = methods.load("simsiam").TERMS[TERM].collapsed_below
    curves, table = {}, Table("", "variance term", "spread at the end", f"collapsed (below {limit:g})")
    try:
        data = betons(options.images, options.run / "data", is_small=True)
        for number, kind in enumerate(KINDS):
            for has_term in (True, False):
                run = options.run / f"{number}-{'with' if has_term else 'without'}"
                epochs, values = curves[kind, has_term] = spread(config_of(kind, has_term, data, options.epochs), run)
                below = next((epoch for epoch, value in zip(epochs, values, strict=True) if value < limit), None)
                said = "no" if below is None else f"in epoch {below:.1f}"
                table.add_row(kind, "yes" if has_term else "no", f"{values[-1]:.3f}", said)
        if options.figure:
            draw(curves, options.figure)
    except (BetonError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    Console().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
