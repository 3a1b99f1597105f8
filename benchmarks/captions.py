"""What is learned of photos and what is said of them: VICReg, Barlow Twins, VSE++, and a plain program of VSE++.

`python benchmarks/modalities.py captions FOLDER` takes photos with captions as Flickr8k has them (images/ and
captions.txt) and holds some out. All learn for equally many epochs with the same networks (but for the expanders) and
the same views: every photo once an epoch with one of its captions. The plain program is `plain_captions.py`. A run has
its folder, and what has ended is not run again.
"""

from __future__ import annotations

import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import tyro
from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks import plain_captions
from benchmarks.ratios import Ratio
from dataprep import write_ffcv
from dataprep.sources.captions import open_splits as open_captions
from dataprep.writing.raw_source import Source
from vicreg import checkpoint, methods
from vicreg.config import DataConfig, ModelConfig, OptimizerConfig, PretrainConfig, TrainConfig
from vicreg.config_json import differing_fields, to_json
from vicreg.data.vocabulary import fitted_to_captions
from vicreg.evals import retrieval
from vicreg.evals.features import open_splits
from vicreg.exchange.pair import pair_of
from vicreg.methods import vse_pp
from vicreg.presets import CAPTION_VIEW, NARROW
from vicreg.ranks.distributed import Placement
from vicreg.training.train import CHECKPOINTS, train

SIDE_PX, BATCH, WORD_WIDTH, STATE = 64, 100, 64, 256
OPTIMIZER = OptimizerConfig(name="adamw", base_lr=1e-3, weight_decay=1e-4, warmup_epochs=2.0, final_lr_ratio=0.01)
EXPANDERS: dict[str, dict[str, Any]] = {
    "vicreg": {"expander": "512-512"},
    "barlow_twins": {"expander": "512-512"},
    "vse_pp": {"expander": str(STATE), "expander_norm": "last"},
}
"""VSE++ has no batch norm and begins with the weights of an image classifier. From random weights its recall stayed
near chance in five short trials; in two with batch norm behind the linear layers it was somewhat above."""
SETTINGS: dict[str, dict[str, Any]] = {"barlow_twins": {"bias_rate_factor": 1.0}}
PLAIN = "VSE++, plain program"
ROWS = {"vicreg": "VICReg", "barlow_twins": "Barlow Twins", "vse_pp": "VSE++", "plain_vse_pp": PLAIN}
"""Of the table, by the names of their runs."""
MEASURED_FILE = "measured.json"
WAYS = {"image_to_text": "image to text", "text_to_image": "text to image"}
CPU = torch.device("cpu")
Measured = dict[str, float]


@dataclass(frozen=True)
class Captions:
    """Measure what is learned from photos with captions."""

    photos: tyro.conf.Positional[Path]
    """Folder with images/ and captions.txt."""
    out: Path | None = None
    """Where betons and runs are kept; a folder that goes away by itself if none is given."""
    epochs: int = 30
    """Of every run."""
    seeds: int = 3
    """Runs of each method; the table has their mean. By its seed alone R@10 of 200 photos differs by some percent."""
    num_val: int = 200
    """Photos that are held out."""


def betons(options: Captions, out: Path) -> DataConfig:
    """Betons of the photos, written once; ValueError where they cannot be."""
    if not (out / "val.beton").is_file():
        where = ["--root", str(options.photos), "--out", str(out), "--num-val", str(options.num_val)]
        if write_ffcv.main(["captions", *where, "--num-workers", "0"]):
            raise ValueError(f"{options.photos} could not be written as betons; the reason stands above")
    return DataConfig(
        train=str(out / "train.beton"), val=str(out / "val.beton"), image_size=SIDE_PX, eval_resize=SIDE_PX
    )


def configuration(name: str, data: DataConfig, epochs: int, seed: int) -> PretrainConfig:
    """Of a method's run."""
    networks = ModelConfig(encoder=NARROW, encoder_b=f"gru-{WORD_WIDTH}-{STATE}")
    config = PretrainConfig(
        replace(methods.load(name).Config(), **SETTINGS.get(name, {})),
        data=data,
        views=(CAPTION_VIEW,),
        model=replace(networks, **EXPANDERS[name]),
        optimizer=OPTIMIZER,
        train=TrainConfig(epochs=epochs, global_batch=BATCH, seed=seed, keep_checkpoints=1),
    )
    return fitted_to_captions(config)


def learned(config: PretrainConfig, run: Path) -> Measured:
    """Train to the end from wherever it is, and measure."""
    run.mkdir(parents=True, exist_ok=True)
    train(config, run, Placement(cpus=1), lambda _: False, Console(quiet=True))
    pair = pair_of(checkpoint.list_checkpoints(run / CHECKPOINTS)[-1], config)
    found = retrieval.evaluate(pair, open_splits(config.data, CPU, 1), retrieval.Config(shown=0))
    return found.metrics | {name: value for name, value in found.details.items() if name.endswith("median_rank")}


def plain_settings(config: PretrainConfig) -> plain_captions.Settings:
    """Of the plain program, to do what this run of VSE++ does."""
    assert isinstance(config.method, vse_pp.Config)
    (view,), optimizer = config.views, config.optimizer
    return plain_captions.Settings(
        epochs=config.train.epochs,
        batch=config.train.global_batch,
        side_px=config.data.image_size,
        crop_scale=view.crop_scale,
        mean=config.data.mean,
        std=config.data.std,
        word_width=WORD_WIDTH,
        state=STATE,
        min_word_count=config.model.min_word_count,
        margin=config.method.margin,
        lr=optimizer.base_lr,
        weight_decay=optimizer.weight_decay,
        warmup_epochs=optimizer.warmup_epochs,
        final_lr_ratio=optimizer.final_lr_ratio,
        seed=config.train.seed,
    )


def plainly_learned(config: PretrainConfig, photos: Path, num_val: int) -> Measured:
    """The same by the plain program, from the files."""
    splits = {source.split: source for source in open_captions(photos, None, True, num_val, seed=0)}
    model = plain_captions.train(plain_settings(config), _captioned(splits["train"]))
    return plain_captions.measured(model, _captioned(splits["val"]))


def _captioned(source: Source) -> list[plain_captions.Captioned]:
    assert source.captions is not None
    root = Path(source.root)
    return [(root / source.relative_path(i), source.captions(i).captions) for i in range(len(source))]


def _once(file: Path, config: PretrainConfig, measure: Callable[[], Measured]) -> tuple[Measured, float]:
    """What was measured, and the minutes it took, kept in a file; ValueError where that is of another configuration."""
    if file.is_file():
        kept = json.loads(file.read_text())
        if changed := differing_fields(kept["config"], to_json(config)):
            raise ValueError(f"{file} is of another configuration ({', '.join(changed)}); choose another --out")
        return kept["measured"], kept["minutes"]
    start_s = time.monotonic()
    found = measure()
    minutes = (time.monotonic() - start_s) / 60
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"config": to_json(config), "measured": found, "minutes": minutes}, indent=1))
    return found, minutes


def ratios(options: Captions, console: Console) -> Sequence[Ratio]:
    """Run, measure and print; the targets."""
    torch.set_num_threads(1)
    rows: dict[str, list[Measured]] = {}
    minutes: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as temporary:
        out = options.out or Path(temporary)
        data = betons(options, out)
        for seed, (name, title) in itertools.product(range(options.seeds), ROWS.items()):
            config = configuration(name.removeprefix("plain_"), data, options.epochs, seed)
            run = out / f"{name}-{seed}"
            by_itself = partial(learned, config, run)
            plainly = partial(plainly_learned, config, options.photos, options.num_val)
            found, took = _once(run / MEASURED_FILE, config, plainly if title == PLAIN else by_itself)
            rows.setdefault(title, []).append(found)
            minutes[title] = minutes.get(title, 0.0) + took / options.seeds
            console.print(f"{run.name}: {took:.1f} minutes", style="dim", highlight=False)
    console.print(table(options, rows, minutes))
    reached = {
        title: statistics.mean(one[f"{way}_r10"] for one in found for way in WAYS) for title, found in rows.items()
    }
    return [
        Ratio(f"{title} / {PLAIN}, R@10, mean of both ways", reached[title] / reached[PLAIN], 1.0)
        for title in rows
        if title != PLAIN
    ]


def table(options: Captions, rows: dict[str, list[Measured]], minutes: dict[str, float]) -> Table:
    """Means over the seeds, with the deviation of R@10; a row for each way."""
    chance = 100 * 10 / options.num_val
    networks = f"{NARROW} at {SIDE_PX} px, gru-{WORD_WIDTH}-{STATE}, {options.epochs} epochs"
    runs = f"{options.num_val} photos held out, mean of {options.seeds} runs, one thread"
    made = Table(title=f"{networks}; {runs}; R@10 by chance {chance:g} %", box=box.SIMPLE, padding=(0, 1, 0, 0))
    for heading in ("", "percent"):
        made.add_column(heading, no_wrap=True)
    for heading in ("R@1", "R@10", "median rank", "minutes"):
        made.add_column(heading, justify="right", no_wrap=True)
    for title, found in rows.items():
        for way, said in WAYS.items():
            values = {column: [one[f"{way}_{column}"] for one in found] for column in ("r1", "r10", "median_rank")}
            spread = statistics.stdev(values["r10"]) if len(found) > 1 else 0.0
            mean = {column: statistics.mean(each) for column, each in values.items()}
            cells = (f"{mean['r1']:.1f}", f"{mean['r10']:.1f} ± {spread:.1f}", f"{mean['median_rank']:.0f}")
            is_first = said == next(iter(WAYS.values()))
            made.add_row(title if is_first else "", said, *cells, f"{minutes[title]:.1f}" if is_first else "")
    return made
