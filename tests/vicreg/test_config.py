"""Configurations travel as JSON without loss, and bad values are refused by name."""

from __future__ import annotations

import dataclasses
import json

import pytest

from jobs.planning.recipes import RECIPES, recipe
from vicreg.config import (
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    PretrainConfig,
    TrainConfig,
    ViewConfig,
    official_views,
    paper_views,
)
from vicreg.config_json import differing_fields, from_json, to_json
from vicreg.methods import read_config, vicreg
from vicreg.schema import SCHEMA


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_survives_json(name: str) -> None:
    config = recipe(name).pretrain
    assert read_config(json.loads(json.dumps(to_json(config))), SCHEMA) == config


def test_default_is_the_official_run() -> None:
    config = recipe("imagenet-1000ep").pretrain
    assert config == PretrainConfig(vicreg.Config())
    assert config.views == official_views()
    assert (config.optimizer.base_lr, config.train.global_batch, config.train.epochs) == (0.2, 2048, 1000)
    assert paper_views()[0] == paper_views()[1]


def test_an_unknown_field_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"TrainConfig is \['epoch'\], allowed: the fields epochs"):
        from_json(PretrainConfig, {"train": {"epoch": 3}})


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        (ViewConfig, "crop_scale", (0.0, 1.0)),
        (ViewConfig, "crop_ratio", (2.0, 1.0)),
        (ViewConfig, "blur_p", 1.5),
        (ViewConfig, "hue", 0.6),
        (ViewConfig, "brightness", -0.1),
        (ViewConfig, "rotation_deg", 181.0),
        (DataConfig, "image_size", 0),
        (DataConfig, "eval_resize", 100),
        (DataConfig, "workers", -1),
        (DataConfig, "block_samples", 0),
        (ModelConfig, "expander", "8192,8192"),
        (OptimizerConfig, "base_lr", 0.0),
        (OptimizerConfig, "momentum", 1.0),
        (TrainConfig, "epochs", 0),
        (TrainConfig, "global_batch", 1),
    ],
)
def test_impossible_values_are_refused_by_name(kind: type, field: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"{field} is .* allowed: "):
        kind(**{field: value})


def test_differing_fields_are_named_and_harmless_ones_are_not() -> None:
    config = PretrainConfig(vicreg.Config())
    other = dataclasses.replace(
        config,
        train=dataclasses.replace(config.train, epochs=7, log_every_steps=3),
        data=dataclasses.replace(config.data, workers=9),
    )
    assert differing_fields(to_json(config), to_json(other)) == ["train.epochs: 1000 -> 7"]
