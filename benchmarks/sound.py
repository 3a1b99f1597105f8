"""What two branches teach each other of sound: spoken digits, waveform beside spectrogram, on one thread.

`python benchmarks/modalities.py sound RECORDINGS` takes the recordings of the Free Spoken Digit Dataset (3,000 files
DIGIT_SPEAKER_NUMBER.wav of ten digits by six speakers; numbers 0 to 4 are held out). Every row is a linear classifier
on frozen features of whole clips: of random weights, of the branch alone with two views of its own, of both branches
together, and of a supervised network. A run has its folder, and what has ended is not run again.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from rich.console import Console
from rich.table import Table
from torch import nn

from benchmarks.ratios import Ratio
from dataprep import write_ffcv
from jobs.planning.subjects import open_residuals
from vicreg import methods
from vicreg.config import DataConfig, ModelConfig, PretrainConfig
from vicreg.data.channels import fitted_to_channels
from vicreg.evals import knn, sound
from vicreg.evals.features import Splits, open_splits
from vicreg.exchange.encoder_file import load_encoder, untrained_encoder
from vicreg.one_branch import branch
from vicreg.ranks.distributed import Placement
from vicreg.run_files import encoder_path, read_metrics
from vicreg.training.train import train

RECIPE = "spoken-digits"
PATTERN, HELD_OUT = r"(?P<label>\d)_\w+_\d+\.wav$", r"_[0-4]\.wav$"
KINDS = {"spectrogram": "a", "waveform": "b"}
"""Of sound, and which branch of the recipe takes it."""
ABOVE_RANDOM, LEAST = 15.0, 90.0
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Sound:
    """Measure what is learned from spoken digits."""

    recordings: tyro.conf.Positional[Path]
    """Folder of the recordings."""
    out: Path | None = None
    """Where betons and runs are kept; a folder that goes away by itself if none is given."""
    epochs: int = 40
    """Of every run."""
    seed: int = 0
    """Of every run."""


def betons(recordings: Path, out: Path) -> DataConfig:
    """Betons of the recordings, written once; ValueError where they cannot be."""
    stored = ["--rate-hz", "8000", "--clip-seconds", "1", "--num-workers", "0"]
    options = ["audio", "--root", str(recordings), "--out", str(out), "--pattern", PATTERN, "--hold-out", HELD_OUT]
    if write_ffcv.main([*options, *stored]):
        raise ValueError(f"{recordings} could not be written as betons; the reason stands above")
    data = methods.load("vicreg").RECIPES[RECIPE].pretrain.data
    return dataclasses.replace(data, train=str(out / "train.beton"), val=str(out / "val.beton"))


def configurations(options: Sound, data: DataConfig) -> dict[str, PretrainConfig]:
    """All runs by name: both branches together, each alone, each supervised."""
    recipe = methods.load("vicreg").RECIPES[RECIPE].pretrain
    train_config = dataclasses.replace(recipe.train, epochs=options.epochs, seed=options.seed, keep_checkpoints=1)
    optimizer = dataclasses.replace(recipe.optimizer, warmup_epochs=options.epochs / 10)
    joint = fitted_to_channels(dataclasses.replace(recipe, data=data, train=train_config, optimizer=optimizer))
    found = {"joint": joint}
    for kind, name in KINDS.items():
        alone = dataclasses.replace(joint, model=branch(joint.model, name))
        found[f"{kind} alone"] = alone
        found[f"{kind} supervised"] = dataclasses.replace(alone, method=methods.load("supervised").Config())
    return found


def run(config: PretrainConfig, folder: Path, console: Console) -> float:
    """Train to the end from wherever it is; minutes that it took in all."""
    if not encoder_path(folder).is_file():
        folder.mkdir(parents=True, exist_ok=True)
        train(config, folder, Placement(cpus=1), lambda _: False, Console(quiet=True))
    lines = [line for line in read_metrics(folder) if "elapsed_s" in line]
    minutes = lines[-1]["elapsed_s"] / 60 if lines else 0.0
    console.print(f"{folder.name}: {minutes:.1f} minutes")
    return minutes


def measured(encoder: nn.Module, splits: Splits) -> tuple[float, float]:
    """Linear and 20-NN top-1 in percent."""
    linear = sound.evaluate(encoder, splits, sound.Config()).metrics["top1_linear_held_out"]
    nearest = knn.evaluate(encoder, splits, knn.Config(neighbours=(20,))).metrics["top1_20_neighbours"]
    return linear, nearest


def ratios(options: Sound, console: Console) -> Sequence[Ratio]:
    """Run, measure and print; the targets."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        out = options.out or Path(temporary)
        data = betons(options.recordings, out)
        configs = configurations(options, data)
        minutes = {name: run(config, out / name.replace(" ", "-"), console) for name, config in configs.items()}
        splits = open_splits(configs["joint"].data, CPU, 1)
        table = Table("", "features from", "linear", "20-NN", "minutes", title=_title(options, configs["joint"].model))
        linear: dict[tuple[str, str], float] = {}
        for kind, name in KINDS.items():
            models = {
                "random weights": (branch(configs["joint"].model, name), None),
                "alone, two views": (None, encoder_path(out / f"{kind}-alone")),
                "both branches": (None, encoder_path(out / "joint", "" if name == "a" else name)),
                "supervised": (None, encoder_path(out / f"{kind}-supervised")),
            }
            took = {"alone, two views": f"{kind} alone", "both branches": "joint", "supervised": f"{kind} supervised"}
            for what, (model, path) in models.items():
                if model is not None:
                    encoder = open_residuals(untrained_encoder(model, options.seed))
                else:
                    assert path is not None
                    encoder = load_encoder(path)
                linear[kind, what], nearest = measured(encoder, splits)
                lasted = f"{minutes[took[what]]:.1f}" if what in took else ""
                table.add_row(kind, what, f"{linear[kind, what]:.1f}", f"{nearest:.1f}", lasted)
    console.print(table)
    gains = [
        Ratio(f"{kind}, both branches above random weights, points / {ABOVE_RANDOM:g}",
              (linear[kind, "both branches"] - linear[kind, "random weights"]) / ABOVE_RANDOM, 1.0)
        for kind in KINDS
    ]  # fmt: skip
    return [
        *gains,
        Ratio(f"spectrogram, both branches, linear / {LEAST:g} %", linear["spectrogram", "both branches"] / LEAST, 1.0),
    ]


def _title(options: Sound, model: ModelConfig) -> str:
    networks = f"{model.encoder} and {model.encoder_b}"
    return f"spoken digits, percent of 300 held-out recordings; {networks}, {options.epochs} epochs, one thread"
