"""Named runs: what is learned and how, what is measured afterwards, where the settings come from, what to expect."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from vicreg.config import (
    DataConfig,
    LossConfig,
    ModelConfig,
    OnlineConfig,
    OptimizerConfig,
    PretrainConfig,
    TrainConfig,
    ViewConfig,
)
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
        return cls(name, preset.module, {**preset.settings, **changes}, data=preset.data)


@dataclass(frozen=True)
class Recipe:
    """A run with a name."""

    name: str
    source: str
    expected: str
    pretrain: PretrainConfig
    evaluations: tuple[Evaluation, ...]


IMAGENET_EVALUATIONS = (
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


def imagenet_1000ep() -> Recipe:
    """The published run."""
    return Recipe(
        name="imagenet-1000ep",
        source="official code and paper, section 4.2: ResNet-50, batch 2048, LARS, base rate 0.2, 1000 epochs",
        expected="linear top-1 73.2 %, top-5 91.1 % (paper, Table 1); 20-NN 64.5 %, 200-NN 62.8 % (Table 11)",
        pretrain=PretrainConfig(),
        evaluations=IMAGENET_EVALUATIONS,
    )


def imagenet_100ep() -> Recipe:
    """The setting of the paper's ablations."""
    return Recipe(
        name="imagenet-100ep",
        source="paper, appendix C.4: as the 1000-epoch run with base rate 0.3 (batch 2048) and 100 epochs",
        expected="linear top-1 68.6 % (paper, Tables 4, 7 and 13)",
        pretrain=PretrainConfig(optimizer=OptimizerConfig(base_lr=0.3), train=TrainConfig(epochs=100)),
        evaluations=IMAGENET_EVALUATIONS,
    )


def cifar10() -> Recipe:
    """CIFAR-10 on one GPU, the data set held on the device."""
    view = ViewConfig(crop_scale=(0.2, 1.0), blur_p=0.0, solarize_p=0.1)

    return Recipe(
        name="cifar10",
        source="solo-learn, scripts/pretrain/cifar/vicreg.yaml: ResNet-18 for small images, batch 256, 1000 epochs",
        expected="92.07 % top-1 of an online linear head (solo-learn's README); the offline linear is not published",
        pretrain=PretrainConfig(
            data=DataConfig(
                train="data/cifar10/train.beton",
                val="data/cifar10/val.beton",
                loader="array",
                image_size=32,
                eval_resize=32,
                mean=(0.4914, 0.4822, 0.4465),
                std=(0.2470, 0.2435, 0.2616),
            ),
            view_a=view,
            view_b=view,
            model=ModelConfig(encoder="resnet18", small_images=True, expander="2048-2048-2048"),
            loss=LossConfig(variance_reduction="sum"),
            optimizer=OptimizerConfig(
                base_lr=0.3, weight_decay=1e-4, trust_coefficient=0.02, clip_lr=True, final_lr_ratio=0.0
            ),
            train=TrainConfig(epochs=1000, global_batch=256),
            online=OnlineConfig(every_epochs=10, lr=0.1),
        ),
        evaluations=(
            Evaluation("linear", "linear"),
            Evaluation("knn", "knn", baselines=("random", "pixels")),
            Evaluation("gallery", "gallery"),
        ),
    )


def digits() -> Recipe:
    """scikit-learn's handwritten digits: real data without a download, minutes on a laptop."""
    view = ViewConfig(
        crop_scale=(0.5, 1.0),
        crop_ratio=(0.75, 1.33),
        rotation_deg=17.0,
        hflip_p=0.0,
        jitter_p=1.0,
        brightness=0.2,
        contrast=0.4,
        saturation=0.0,
        hue=0.0,
        grayscale_p=0.0,
        blur_p=0.0,
    )
    baselines = ("random", "pixels")
    tuning = {"subset": "", "lr_encoder": 0.02, "lr_head": 0.3, "crop_scale": [0.5, 1.0], "hflip_p": 0.0}
    return Recipe(
        name="digits",
        source="this project: 1,437 of scikit-learn's digits at 32 px, a ResNet of 0.3 M parameters",
        expected="79 / 93 / 96 / 99 % linear with 10 / 50 / 144 / 1,437 labels (raw pixels: 58 / 84 / 91 / 97 %)",
        pretrain=PretrainConfig(
            data=DataConfig(
                train="data/digits/train.beton",
                val="data/digits/val.beton",
                image_size=32,
                eval_resize=32,
                mean=(0.305, 0.305, 0.305),
                std=(0.376, 0.376, 0.376),
            ),
            view_a=view,
            view_b=view,
            model=ModelConfig(encoder="resnet10-narrow", small_images=True, expander="512-512-512"),
            optimizer=OptimizerConfig(name="adamw", base_lr=2e-3, weight_decay=1e-4, warmup_epochs=4.0),
            train=TrainConfig(epochs=80, global_batch=128, log_every_steps=20, channels_last=True),
        ),
        evaluations=(
            Evaluation("few-labels", "few_labels", {"label_counts": [10, 50, 144, 1437]}, baselines),
            Evaluation("knn", "knn", {}, baselines),
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
            Evaluation("semisup-1", "semisup", {**tuning, "fraction": 0.01, "batch": 10}, ("random",)),
            Evaluation("semisup-10", "semisup", {**tuning, "fraction": 0.1, "batch": 48}, ("random",)),
            Evaluation("gallery", "gallery"),
            Evaluation("multi-label", "svm", {"costs": [0.1, 1.0, 10.0]}, ("random", "pixels"), "digits-multi-label"),
        ),
    )


RECIPES = {make().name: make for make in (imagenet_1000ep, imagenet_100ep, cifar10, digits)}


def recipe(name: str) -> Recipe:
    """The recipe of that name; ValueError with the valid names otherwise."""
    if name not in RECIPES:
        raise ValueError(f"recipe is {name!r}, allowed: {', '.join(RECIPES)}")
    return RECIPES[name]()


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
        f"evals is {name}, allowed for recipe {recipe_name}: {', '.join(known)}; or as published: {others}"
    )
