"""What is counted of a configuration's networks: of the recipes' own it stands in a table, of others it is counted.

Counting loads torchvision and torch's compiler and passes through every layer, some seconds in which somebody waits for
a dry run. `python -m vicreg.cost.counted` writes the table anew; a test says when that is due.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # the tree that this file stands in, whatever is installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

from border.documents import read_json
from disk.whole_files import write_text
from vicreg import methods
from vicreg.config import DataConfig, OnlineConfig, OptimizerConfig, PretrainConfig, TrainConfig
from vicreg.config_json import from_json, to_json
from vicreg.cost import counting
from vicreg.cost.counts import Arithmetic, Kept, Sizes
from vicreg.cost.view_shapes import view_shape
from vicreg.method import UNKNOWN_DATA, TrainingData
from vicreg.one_branch import without_beginning

TABLE = Path(__file__).with_name("counted.json")
PUBLISHED_DATA = {
    "imagenet": TrainingData(1_281_167, 1000),
    "cifar10": TrainingData(50_000, 10),
    "cifar100": TrainingData(50_000, 100),
}
"""Images and classes, by the folder of a recipe's betons, of which methods may make a bank or a classifier."""
_OTHERWISE = (7, TrainingData(12_345, 0))
"""A batch and data that no recipe has: networks that are the same with them depend on neither."""


@dataclass(frozen=True)
class Counted:
    """All of a configuration's counts."""

    sizes: Sizes
    arithmetic: Arithmetic
    on_cpu: Kept
    on_gpu: Kept
    """In half precision, as a GPU's attention without its fused kernels would keep it."""
    recipes: tuple[str, ...] = ()
    """Those whose networks these are."""


def sizes(config: PretrainConfig, data: TrainingData) -> Sizes:
    """Parameters, buffers and batch norms of a method's networks."""
    known = _known(config, data)
    return known.sizes if known else _sizes(_bare(config), data)


def arithmetic(config: PretrainConfig, data: TrainingData) -> Arithmetic:
    """Operations of a step on a sample."""
    known = _known(config, data)
    return known.arithmetic if known else _arithmetic(_bare(config), data)


def kept(config: PretrainConfig, half: torch.dtype | None, on_gpu: bool, data: TrainingData) -> Kept:
    """What is kept for the backward pass."""
    is_usual = config.train.precision != "float64" and (half is not None) == on_gpu
    known = _known(config, data) if is_usual else None
    if known:
        return known.on_gpu if on_gpu else known.on_cpu
    return _kept(_bare(config), half, on_gpu, data)


_sizes = functools.cache(counting.sizes)
_arithmetic = functools.cache(counting.arithmetic)
_kept = functools.cache(counting.kept)


def _bare(config: PretrainConfig) -> PretrainConfig:
    """The configuration without what changes nothing that is counted, so that the runs of a sweep share it."""
    train, data = config.train, config.data
    return replace(
        config,
        data=DataConfig(image_size=data.image_size, eval_resize=data.image_size, mean=data.mean, std=data.std),
        model=without_beginning(config.model),
        optimizer=OptimizerConfig(),
        online=OnlineConfig(),
        train=TrainConfig(
            global_batch=train.global_batch,
            precision="float64" if train.precision == "float64" else "auto",
            joint_views=train.joint_views,
            channels_last=train.channels_last,
        ),
    )


def _known(config: PretrainConfig, data: TrainingData) -> Counted | None:
    if data.words:
        return None
    table = _table()
    return table.get(_key(config, None)) or table.get(_key(config, data))


@functools.cache
def _table() -> dict[str, Counted]:
    there = read_json(TABLE, dict[str, Any], "python -m vicreg.cost.counted writes it")
    return {key: from_json(Counted, values) for key, values in there.items()}


@functools.cache
def _key(config: PretrainConfig, data: TrainingData | None) -> str:
    """Which networks these are; without data, of a method that depends neither on them nor on the batch."""
    bare = _bare(config)
    said = to_json(replace(bare, train=replace(bare.train, precision="auto")))
    said["views"] = [view_shape(config, number) for number in range(len(config.each_view))]
    said["data"] = dataclasses.asdict(data) if data else None
    said["train"]["global_batch"] = config.train.global_batch if data else None
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]


def count_recipes() -> dict[str, Counted]:
    """The table: all recipes' networks, but those of which a GPU keeps less than is counted without one (attention)."""
    found: dict[str, Counted] = {}
    for name in methods.names():
        for recipe, published in methods.load(name).RECIPES.items():
            config = published.pretrain
            if "vit" in config.model.encoder + config.model.encoder_b:
                continue
            for data in _kinds_of_data(config):
                key = _key(config, data)
                there = found.get(key) or _count(config, data or UNKNOWN_DATA)
                found[key] = replace(there, recipes=(*there.recipes, recipe))
    return found


def _kinds_of_data(config: PretrainConfig) -> Iterator[TrainingData | None]:
    batch, other = _OTHERWISE
    try:
        changed = replace(config, train=replace(config.train, global_batch=batch))
        if counting.sizes(changed, other) == counting.sizes(config, UNKNOWN_DATA):
            yield None
            return
    except ValueError:  # such a batch or data without classes are nothing for it
        pass
    yield UNKNOWN_DATA
    if published := PUBLISHED_DATA.get(Path(config.data.train).parent.name):
        yield published


def _count(config: PretrainConfig, data: TrainingData) -> Counted:
    bare = _bare(config)
    return Counted(
        sizes=_sizes(bare, data),
        arithmetic=_arithmetic(bare, data),
        on_cpu=_kept(bare, None, False, data),
        on_gpu=_kept(bare, torch.bfloat16, True, data),
    )


def as_text(table: dict[str, Counted]) -> str:
    """The table as it stands in its file, networks by their recipes."""
    lines = sorted((counted.recipes, key) for key, counted in table.items())
    return "{\n" + ",\n".join(f'"{key}": {json.dumps(to_json(table[key]))}' for _, key in lines) + "\n}\n"


if __name__ == "__main__":
    write_text(TABLE, as_text(count_recipes()))
    sys.exit()
