"""Named runs: the methods' published ones, with what is measured afterwards on the data set that they learn from."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from border.text import did_you_mean
from slurm.cluster import Cluster
from vicreg import methods
from vicreg.config import PretrainConfig
from vicreg.evals.protocols import PRESETS


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of a run: a module of vicreg/evals with settings that differ from its defaults."""

    name: str
    module: str
    settings: dict[str, Any] = field(default_factory=dict)
    baselines: tuple[str, ...] = ()
    """What is measured beside the trained encoder: "random" (untrained), "pixels" (no encoder)."""
    data: str = ""
    """Name of the data set that it takes; empty: the run's own."""
    nodes: int = 1
    """Machines for its job, where the command does not say."""

    @classmethod
    def published(cls, name: str, **changes: Any) -> Evaluation:
        """A preset of vicreg/evals/protocols.py; `changes` of its settings."""
        preset = PRESETS[name]
        return cls(name, preset.module, {**preset.settings, **changes}, preset.baselines, preset.data)


def evaluation_module(name: str) -> Any:
    """The file vicreg/evals/<name>.py, with its `Config` and `evaluate`."""
    return importlib.import_module(f"vicreg.evals.{name}")


def evaluation_settings(name: str) -> Any:
    """The `Config` of that evaluation, without what it takes to measure."""
    return importlib.import_module(f"vicreg.evals.settings.{name}").Config


@dataclass(frozen=True)
class Recipe:
    """A run with a name: what a method has published, and what is measured of it."""

    name: str
    source: str
    expected: str
    pretrain: PretrainConfig
    evaluations: tuple[Evaluation, ...]


IMAGENET = (
    Evaluation.published(  # 40 heads; the published rate and decay are among them
        "linear", grid_lrs=[0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0], grid_weight_decays=[0.0, 1e-5, 1e-4, 5e-4]
    ),
    Evaluation.published("semisup-1"),
    Evaluation.published("semisup-10"),
    Evaluation.published("places205"),
    Evaluation.published("voc07"),
    Evaluation.published("inat18"),
    Evaluation.published("knn"),
    Evaluation("gallery", "gallery"),
)

CIFAR10 = (
    Evaluation("linear", "linear"),
    Evaluation("knn", "knn", baselines=("random", "pixels")),
    Evaluation("gallery", "gallery"),
)

_BASELINES = ("random", "pixels")
_TUNING = {"subset": "", "lr_encoder": 0.02, "lr_head": 0.3, "crop_scale": [0.5, 1.0], "hflip_p": 0.0}
DIGITS = (
    Evaluation("few-labels", "few_labels", {"label_counts": [10, 50, 144, 1437]}, _BASELINES),
    Evaluation("knn", "knn", {}, _BASELINES),
    Evaluation(
        "linear",
        "linear",
        {
            "epochs": 20,
            "lr": 0.3,
            "grid_lrs": [0.03, 0.1, 1.0, 3.0],
            "grid_weight_decays": [1e-4],
            "crop_scale": [0.5, 1.0],
            "hflip_p": 0.0,
        },
        ("random",),
    ),
    Evaluation("semisup-1", "semisup", {**_TUNING, "fraction": 0.01, "batch": 10}, ("random",)),
    Evaluation("semisup-10", "semisup", {**_TUNING, "fraction": 0.1, "batch": 48}, ("random",)),
    Evaluation("gallery", "gallery"),
    Evaluation("multi-label", "svm", {"costs": [0.1, 1.0, 10.0]}, ("random", "pixels"), "digits-multi-label"),
)

_BESIDE_SOUND = (Evaluation("knn", "knn", {}, ("random",)), Evaluation("gallery", "gallery"))
ESC50 = (Evaluation("sound", "sound", {"tuned_epochs": 30}, ("random",)), *_BESIDE_SOUND)
SMALL_SOUND = (Evaluation("sound", "sound", {}, ("random",)), *_BESIDE_SOUND)

OWN = (
    Evaluation("knn", "knn", {}, _BASELINES),
    Evaluation("few-labels", "few_labels", {}, _BASELINES),
    Evaluation("linear", "linear", {"epochs": 20, "lr": 0.1, "batch_norm": True}, ("random",)),
    Evaluation("gallery", "gallery"),
)
"""What is measured of own images."""

CAPTIONS = (Evaluation("retrieval", "retrieval", baselines=("random",)),)

EVALUATIONS = {
    "imagenet": IMAGENET,
    "cifar10": CIFAR10,
    "digits": DIGITS,
    "esc50": ESC50,
    "spoken-digits": SMALL_SOUND,
    "tones": SMALL_SOUND,
    "coco-captions": CAPTIONS,
    "digit-captions": CAPTIONS,
}
"""What is measured of a run, by the folder of its training data."""
ELSEWHERE = CIFAR10
"""What is measured on other data."""

LAST = "last"
"""Instead of checkpoints: the finished encoder."""
AUTO = "auto"
"""The recipe that is chosen for the images (auto_recipe.py)."""
_AUTO = Recipe(
    AUTO,
    source="this project: chosen from the number and size of the images and the machine (docs/own-images.md)",
    expected="better than random weights and raw pixels",
    pretrain=PretrainConfig(methods.load("vicreg").Config()),
    evaluations=OWN,
)

_METHODS = sorted(methods.names(), key=lambda name: (name != "vicreg", name))
RECIPES = {name: method for method in _METHODS for name in methods.load(method).RECIPES}
"""The method of each recipe."""


def recipe(name: str) -> Recipe:
    """The recipe of that name; ValueError with the valid names otherwise."""
    if name == AUTO:
        return _AUTO
    if name not in RECIPES:
        first = {method: name for name, method in reversed(RECIPES.items())}.values()
        raise ValueError(
            f"recipe is {name!r}{did_you_mean(name, (*RECIPES, AUTO))}, allowed: {AUTO} (chosen for your images), "
            f"{', '.join(reversed(first))}, and {len(RECIPES) - len(first)} more, which --help lists"
        )
    published = methods.load(RECIPES[name]).RECIPES[name]
    measured = EVALUATIONS.get(Path(published.pretrain.data.train).parent.name, ELSEWHERE)
    return Recipe(name, published.source, published.expected, published.pretrain, measured)


def evaluations(name: str) -> tuple[Evaluation, ...]:
    """What the recipe of that name measures."""
    return recipe(name).evaluations


def evaluation(recipe_name: str, name: str) -> Evaluation:
    """An evaluation of a recipe, or a published one by its preset's name; ValueError with the valid names otherwise."""
    known = {evaluation.name: evaluation for evaluation in evaluations(recipe_name)}
    if name in known:
        return known[name]
    if name in PRESETS:
        return Evaluation.published(name)
    others = ", ".join(preset for preset in PRESETS if preset not in known)
    raise ValueError(
        f"evals is {name}{did_you_mean(name, {*known, *PRESETS})}, allowed for recipe {recipe_name}: "
        f"{', '.join(known)}; or as published: {others}"
    )


def chosen_evaluations(recipe_name: str, names: Sequence[str]) -> list[Evaluation]:
    """The evaluations of these names, or all of the recipe's; ValueError with the valid ones for an unknown name."""
    return [evaluation(recipe_name, name) for name in names] or list(evaluations(recipe_name))


def at_home(config: PretrainConfig, cluster: Cluster) -> PretrainConfig:
    """The configuration with the data where the cluster's profile has them; data/NAME/ is a data set's usual place."""
    folder = cluster.data.get(Path(config.data.train).parent.name)
    if not folder:
        return config
    train, val = (str(Path(folder) / Path(path).name) for path in (config.data.train, config.data.val))
    return replace(config, data=replace(config.data, train=train, val=val))
