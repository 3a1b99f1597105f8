"""The paper's experiments with VICReg itself, row by row: how each is run here, and what was published of it.

A row is a recipe with options. A report says which rows a run's configuration is that of; docs/methods.md has the
commands. Numbers are linear top-1 on ImageNet of the VICReg paper; "collapse" is its word.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from jobs.planning import recipes
from vicreg import methods
from vicreg.config import PretrainConfig
from vicreg.config_json import differing_fields, to_json
from vicreg.schema import SCHEMA

BASE = "imagenet-100ep"
_PLACES = ("data.train", "data.val")
"""Where the data are is no part of an experiment."""


@dataclass(frozen=True)
class Ablation:
    """A row of a table."""

    table: int
    row: str
    published: str
    """Linear top-1 in percent, or what the paper says instead."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """What differs from the recipe, by the field's full name."""
    recipe: str = BASE

    @property
    def command(self) -> str:
        """How it is run."""
        options = "".join(f" --{name.replace('_', '-')} {value}" for name, value in self.options.items())
        return f"python jobs/pretrain.py --recipe {self.recipe}{options}"

    @functools.cached_property
    def config(self) -> PretrainConfig:
        """Its whole configuration."""
        values = to_json(recipes.recipe(self.recipe).pretrain)
        for name, value in self.options.items():
            *parents, last = name.split(".")
            functools.reduce(dict.__getitem__, parents, values)[last] = value
        return methods.read_config(values, SCHEMA)

    def __str__(self) -> str:
        """As a report names it."""
        unit = " %" if self.published[0].isdigit() else ""
        return f"Table {self.table}, {self.row}: {self.published}{unit}"


def _weights(invariance: float, variance: float, covariance: float) -> dict[str, Any]:
    values = {"invariance": invariance, "variance": variance, "covariance": covariance}
    usual = {"invariance": 25.0, "variance": 25.0, "covariance": 1.0}
    return {f"method.{name}_weight": value for name, value in values.items() if value != usual[name]}


def _coefficients(invariance: float, variance: float, covariance: float, published: str) -> Ablation:
    row = f"λ, μ, ν = {invariance:g}, {variance:g}, {covariance:g}"
    return Ablation(7, row, published, _weights(invariance, variance, covariance))


def _width(width: int, published: str) -> Ablation:
    options = {} if width == 8192 else {"model.expander": f"{width}-{width}-{width}"}
    return Ablation(12, f"expander of {width}", published, options)


def _batch(batch: int, base_lr: float, published: str) -> Ablation:
    options: dict[str, Any] = {} if batch == 2048 else {"train.global_batch": batch}
    return Ablation(
        13, f"batch {batch}", published, options | ({} if base_lr == 0.3 else {"optimizer.base_lr": base_lr})
    )


def _twins(row: str, published: str, encoder_b: str = "") -> Ablation:
    options = {"train.epochs": 100} | ({"model.encoder_b": encoder_b} if encoder_b else {})
    return Ablation(5, f"Barlow Twins, {row}", published, options, "barlow-twins")


def _simclr(row: str, published: str, encoder_b: str = "") -> Ablation:
    options = {"model.encoder_b": encoder_b} if encoder_b else {}
    return Ablation(5, f"SimCLR, {row}", published, options, "simclr-100ep")


_NO_BATCH_NORM = {"model.expander_norm": "none"}
UNIT_STD = round(8192**-0.5, 6)
"""The standard deviation of a dimension where 8,192-dimensional rows have unit length and no direction is preferred."""

ABLATIONS = (
    Ablation(4, "no regularisation", "collapse", _weights(25.0, 0.0, 0.0)),
    Ablation(4, "variance", "57.5", _weights(25.0, 25.0, 0.0)),
    Ablation(4, "variance and covariance", "68.6"),
    Ablation(4, "no regularisation, no batch norm", "collapse", _NO_BATCH_NORM | _weights(25.0, 0.0, 0.0)),
    Ablation(4, "variance, no batch norm", "56.5", _NO_BATCH_NORM | _weights(25.0, 25.0, 0.0)),
    Ablation(4, "variance and covariance, no batch norm", "67.4", _NO_BATCH_NORM),
    Ablation(5, "shared weights", "68.6"),
    Ablation(5, "different weights", "66.5", recipe="imagenet-100ep-unshared"),
    Ablation(5, "ResNet-50 and ResNet-101", "68.1", recipe="imagenet-100ep-r50-r101"),
    Ablation(5, "ResNet-50 and ViT-S", "66.2", recipe="imagenet-100ep-r50-vits"),
    _twins("shared weights", "68.7"),
    _twins("different weights", "64.2", "resnet50"),
    _twins("ResNet-50 and ResNet-101", "65.3", "resnet101"),
    _twins("ResNet-50 and ViT-S", "63.9", "vit_small_patch16_224"),
    _simclr("shared weights", "64.4"),
    _simclr("different weights", "63.1", "resnet50"),
    _simclr("ResNet-50 and ResNet-101", "63.9", "resnet101"),
    _simclr("ResNet-50 and ViT-S", "63.5", "vit_small_patch16_224"),
    _coefficients(1.0, 0.0, 0.0, "collapse"),
    _coefficients(25.0, 0.0, 1.0, "collapse"),
    _coefficients(0.0, 25.0, 1.0, "collapse"),
    _coefficients(1.0, 1.0, 0.0, "57.5"),
    _coefficients(1.0, 1.0, 1.0, "collapse"),
    _coefficients(1.0, 10.0, 1.0, "collapse"),
    _coefficients(10.0, 1.0, 1.0, "collapse"),
    _coefficients(5.0, 5.0, 1.0, "68.1"),
    _coefficients(10.0, 10.0, 1.0, "68.2"),
    _coefficients(25.0, 25.0, 1.0, "68.6"),
    _coefficients(50.0, 50.0, 1.0, "68.3"),
    Ablation(8, "hidden standardised, embedding not", "68.6"),
    Ablation(8, "hidden and embedding standardised", "68.4", {"model.expander_norm": "plain"}),
    Ablation(8, "neither standardised", "67.4", _NO_BATCH_NORM),
    Ablation(8, "embedding standardised, hidden not", "67.2", {"model.expander_norm": "last"}),
    Ablation(8, "hidden standardised, embedding of unit length", "65.1",
             {"model.unit_length": True, "method.target_std": UNIT_STD}),
    Ablation(9, "N-ResNet-50 (x2)", "74.7", {"model.encoder": "wide_resnet50_2"}, "imagenet-1000ep"),
    Ablation(9, "ResNeXt-101 32x16", "76.1", {"model.encoder": "resnext101_32x16d"}, "imagenet-1000ep"),
    _width(256, "55.9"),
    _width(512, "59.2"),
    _width(1024, "62.4"),
    _width(2048, "65.1"),
    _width(4096, "67.3"),
    _width(8192, "68.6"),
    _width(16384, "68.8"),
    _batch(128, 0.8, "67.3"),
    _batch(256, 0.5, "67.9"),
    _batch(512, 0.4, "68.2"),
    _batch(1024, 0.3, "68.3"),
    _batch(2048, 0.3, "68.6"),
    _batch(4096, 0.3, "67.8"),
)  # fmt: skip


def rows_of(config: PretrainConfig) -> list[Ablation]:
    """The rows whose configuration this is, wherever its data are."""
    own = to_json(config)
    return [row for row in ABLATIONS if not _differing(to_json(row.config), own)]


def _differing(row: dict[str, Any], own: dict[str, Any]) -> list[str]:
    return [line for line in differing_fields(row, own) if not line.startswith(_PLACES)]
