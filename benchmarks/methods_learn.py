"""What each method learns in the same time: one table, beside random weights, raw pixels and a supervised network.

Called by `benchmarks/methods.py --learn`. A run has its folder, and its numbers lie in it once it has ended: the table
shows whatever there is, so methods can be run one at a time, on one day or on several.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import shutil
import statistics
import time
from datetime import date
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import nn

from benchmarks.loss import peak_bytes, restart_peak
from benchmarks.small_methods import SIDE_PX, recipe_of, small, whole
from dataprep import write_ffcv
from jobs.planning.subjects import open_residuals
from vicreg.config import DataConfig, PretrainConfig
from vicreg.config_json import differing_fields, to_json
from vicreg.evals import knn
from vicreg.evals.features import Pixels, Splits, open_splits
from vicreg.exchange.encoder_file import load_encoder, untrained_encoder
from vicreg.losses.directions import spread_of_directions
from vicreg.ranks.distributed import Placement
from vicreg.run_files import ENCODER_FILE, read_metrics
from vicreg.training.train import Outcome, train

IMAGES_OF_A_CLASS = {"train": 500, "test": 200}
"""Of the small form."""
LEARNED_FILE = "learned.json"
COLUMNS = {"online": 1, "20-NN": 1, "above random": 1, "effective rank": 1, "images/s": 0, "MB": 0}
"""Headings with their digits."""
Row = dict[str, float]


def betons(images: Path, out: Path, is_small: bool) -> DataConfig:
    """Betons of the images, or of the first of each class; written once."""
    for split, count in IMAGES_OF_A_CLASS.items():
        if (out / f"{split}.beton").exists():
            continue
        root = images
        if is_small:
            root = out / "images"
            for folder in sorted(path for path in (images / split).iterdir() if path.is_dir()):
                (root / split / folder.name).mkdir(parents=True, exist_ok=True)
                for file in sorted(folder.iterdir())[:count]:
                    shutil.copy(file, root / split / folder.name / file.name)
        code = write_ffcv.main(["folder", "--root", str(root), "--out", str(out), "--split", split])
        if code:
            raise ValueError(f"{images / split} could not be written as a beton; the reason stands above")
    data = recipe_of("vicreg").pretrain.data
    side_px = SIDE_PX if is_small else data.image_size
    data = dataclasses.replace(data, image_size=side_px, eval_resize=side_px)
    return dataclasses.replace(data, train=str(out / "train.beton"), val=str(out / "test.beton"))


@torch.no_grad()
def measured(encoder: nn.Module, splits: Splits) -> Row:
    """20-NN top-1 in percent, and effective rank of the validation features."""
    splits = dataclasses.replace(splits)  # one that keeps no features of another encoder
    top1 = knn.evaluate(encoder, splits, knn.Config(neighbours=(20,))).metrics["top1_20_neighbours"]
    values = splits.features(encoder, "val").values.double()
    centred = values - values.mean(0)
    spectrum = torch.linalg.eigvalsh(centred.T @ centred)
    return {
        "20-NN": top1,
        "effective rank": float(spectrum.sum() ** 2 / spectrum.square().sum()),
        "spread": float(spread_of_directions(values)),
    }


def learn(config: PretrainConfig, run: Path, splits: Splits, minutes: float) -> dict[str, Any]:
    """Train from where it stopped, and say what the encoder is worth; nothing before the end. Kept in the run's folder.

    ValueError where what lies there is of another configuration.
    """
    run.mkdir(parents=True, exist_ok=True)
    file = run / LEARNED_FILE
    if file.exists():
        found: dict[str, Any] = json.loads(file.read_text())
        if changed := differing_fields(found["config"], to_json(config)):
            raise ValueError(f"{file} is of another configuration ({', '.join(changed)}); choose another --run")
        return found
    end_s, before = time.monotonic() + 60 * minutes, restart_peak(splits.device)
    outcome = train(config, run, Placement(0, 1, 0, 1), lambda _: time.monotonic() > end_s, Console(quiet=True))
    peak = (peak_bytes(splits.device) - before) / 1e6
    if outcome is not Outcome.FINISHED:
        return {}
    lines = read_metrics(run)
    speeds = [line["images_per_s"] for line in lines if "images_per_s" in line]
    untrained = open_residuals(untrained_encoder(config.model, 0)).to(splits.device)
    random, row = measured(untrained, splits), measured(load_encoder(run / ENCODER_FILE), splits)
    row |= {
        "online": [line["online_top1"] for line in lines if "online_top1" in line][-1],
        "above random": row["20-NN"] - random["20-NN"],
        "images/s": statistics.median(speeds),
        "MB": peak,
        "first loss": lines[0]["loss"],
        "last loss": lines[-1]["loss"],
    }
    found = {"row": row, "random": random, "where": _where(), "config": to_json(config)}
    file.write_text(json.dumps(found, indent=1))
    return found


def _where() -> dict[str, Any]:
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()
    load = os.getloadavg()[1] if hasattr(os, "getloadavg") else 0.0
    return {
        "date": date.today().isoformat(),
        "device": device,
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "load": round(load, 1),
        "torch": torch.__version__,
    }


def learn_all(names: list[str], options: argparse.Namespace, device: torch.device, console: Console) -> dict[str, Row]:
    """One table of all methods of which there are numbers."""
    data = betons(options.learn, options.run / "data", options.small)
    splits = open_splits(data, device, 1)
    form = small if options.small else whole
    random = open_residuals(untrained_encoder(form("vicreg", data, 1).model, 0)).to(device)
    rows: dict[str, Row] = {
        "raw pixels": measured(Pixels(data.image_size), splits),
        "random weights": measured(random, splits),
    }
    places: list[dict[str, Any]] = []
    for name in names:
        console.print(f"learning: {name}", style="dim")
        found = learn(form(name, data, options.epochs), options.run / name, splits, options.minutes)
        rows[name] = found.get("row", {})
        places += [found["where"]] if found else []
    print_rows(rows, console)
    said = _say_where(places)
    console.print(f"{options.epochs} epochs at {data.image_size} px{said}", style="dim", highlight=False)
    return rows


def _say_where(places: list[dict[str, Any]]) -> str:
    """Where and when the runs were, in one line."""
    if not places:
        return ""
    loads, dates = ([place[key] for place in places] for key in ("load", "date"))
    first = places[0] | {"load": f"{min(loads)} to {max(loads)}", "date": f"{min(dates)} to {max(dates)}"}
    return "".join(f", {key} {value}" for key, value in first.items())


def print_rows(rows: dict[str, Row], console: Console) -> None:
    """A table in Markdown, as docs/methods.md has it."""
    lines = [["", *COLUMNS], ["---", *["---:"] * len(COLUMNS)]]
    for name, row in rows.items():
        cells = [f"{row[column]:,.{digits}f}" if column in row else "–" for column, digits in COLUMNS.items()]
        lines.append([name if row else f"{name} (not finished)", *cells])
    for line in lines:
        console.print(f"| {' | '.join(line)} |", markup=False, highlight=False, soft_wrap=True)
