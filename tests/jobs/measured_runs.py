"""Run folders with everything that a report can show: curves, heads, classes, pictures; numbers made up."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from jobs.planning.recipes import evaluation_settings, recipe
from tests.jobs.run_folders import write_run
from vicreg.config_json import from_json, to_json
from vicreg.evals import gallery, results
from vicreg.evals.results import RANDOM, TRAINED, Result
from vicreg.exchange.encoder_file import checksum, load_encoder

STEPS_PER_EPOCH, EPOCHS = 11, 80
CLASSES = ("aeroplane", "bird", "cat")


def write_measured(run: Path, names: tuple[str, ...] = CLASSES, pictures: int = 40) -> None:
    """A finished digits run with metrics and results of every kind, its classes called so."""
    config = recipe("digits").pretrain
    write_run(run, config, "digits")
    lines = []
    for step in range(0, STEPS_PER_EPOCH * EPOCHS, 20):
        terms = {name: 20 * math.exp(-step / 200) + 1 for name in ("loss", "invariance", "variance", "covariance")}
        timing = {"images_per_s": 3000.0, "data_wait_share": 0.1, "elapsed_s": step / 10}
        more = {"embedding_std": 0.5, "effective_rank": 30.0, "learning_rate": 1e-3, "skipped_steps": 0}
        lines.append({"step": step, "epoch": step // STEPS_PER_EPOCH, **terms, **more, **timing})
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for subject in (TRAINED, RANDOM):
        write_result(run, "linear", subject, {"top1": 90.0, "top5": 99.0}, linear_details())
        write_result(run, "svm", subject, {"map": 80.0}, class_details(names))
    write_result(run, "semisup", TRAINED, {"top1": 70.0}, {"epochs": 3, "top1": [50.0, 60.0, 70.0], "loss": [3, 2, 1]})
    for step, value in ((5, 40.0), (10, 60.0)):
        write_result(run, "knn", f"step_{step:08}", {"top1_20_neighbours": value})
    write_result(run, "gallery", TRAINED, {}, gallery_details(names, pictures))


def write_result(
    run: Path, module: str, subject: str, metrics: dict[str, float], details: dict[str, Any] | None = None, **other: Any
) -> None:
    """A result under the module's name, with the settings of the digits recipe or else the module's own."""
    asked = next((item.settings for item in recipe("digits").evaluations if item.name == module), {})
    split = {"path": "data/digits/train.beton", "num_images": 1437, "size_bytes": 1, "fingerprint": "a"}
    values: dict[str, Any] = {
        "evaluation": module,
        "module": module,
        "subject": subject,
        "metrics": metrics,
        "settings": to_json(from_json(evaluation_settings(module), asked)),
        "data": {"train": split, "val": split | {"path": "data/digits/val.beton", "num_images": 360}},
        "num_classes": 10,
        "num_features": 128,
        "encoder_sha256": checksum(load_encoder(run / "encoder.pt")),
        "duration_s": 1.0,
        "num_ranks": 1,
        "device": "CPU",
        "versions": {},
        "finished": "2026-01-01T00:00:00+00:00",
        "details": details or {},
    }
    results.write(run, Result(**(values | other)))


def linear_details(epochs: int = 20) -> dict[str, Any]:
    """Curves of three heads, of which one has diverged."""
    heads = []
    for lr in (0.3, 1.0, 30.0):
        values: list[float | None] = [90 - 50 * math.exp(-lr * epoch) for epoch in range(epochs)]
        known = values if lr < 30 else [*values[:3], *[None] * (epochs - 3)]
        heads.append(
            {"lr": lr, "weight_decay": 1e-6, "published": lr == 0.3, "top1": known, "top5": known, "loss": known}
        )
    return {"epochs": epochs, "heads": heads, "grid_best": {"lr": 1.0, "weight_decay": 1e-6}}


def class_details(names: tuple[str, ...]) -> dict[str, Any]:
    """Average precisions of classes, the first the best."""
    classes = {name: {"ap": 90.0 - place, "ap_11_point": 80.0, "cost": 1.0} for place, name in enumerate(names)}
    return {"classes": classes, "left_out": {"boat": "no test image shows it"}}


def gallery_details(names: tuple[str, ...], num_pictures: int) -> dict[str, Any]:
    """A map of so many pictures of noise and 12 x 6 neighbours, of these classes in turn."""
    random = np.random.default_rng(0)

    def sheet(number: int, side: int, columns: int = 0) -> dict[str, Any]:
        noise = random.integers(0, 256, (number, side, side, 3), dtype=np.uint8)
        return gallery.contact_sheet([Image.fromarray(pixels) for pixels in noise], columns)

    labels = [number % len(names) for number in range(num_pictures)]
    return {
        "num_val": 360,
        "classes": {str(number): name for number, name in enumerate(names)},
        "map": {
            "samples": list(range(num_pictures)),
            "labels": labels,
            "x": random.random(num_pictures).round(4).tolist(),
            "y": random.random(num_pictures).round(4).tolist(),
            "sheet": sheet(num_pictures, 32),
        },
        "neighbours": {
            "samples": list(range(12)),
            "labels": [number % len(names) for number in range(12)],
            "train_samples": [list(range(6))] * 12,
            "train_labels": [[number % len(names) for number in range(6)]] * 12,
            "cosines": [[0.9] * 6] * 12,
            "sheet": sheet(84, 64, 7),
        },
    }


def rename(run: Path, **changes: Any) -> None:
    """Change fields of a run's config.json."""
    path = run / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
