"""Every method's first recipe in a form that takes tenths of a second on a CPU, for what holds for all of them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dataprep.sources.digit_captions import NAMES
from vicreg import methods
from vicreg.config import PretrainConfig
from vicreg.method import TrainingData
from vicreg.presets import DIGITS
from vicreg.views.captions import PADDING, word_number

METHODS = methods.names()
BATCH, NUM_STEPS = 32, 5
NUM_SAMPLES = BATCH * NUM_STEPS
"""Of the runs that go to their end, an epoch."""
FEWER: dict[str, dict[str, float]] = {
    "cpc_v2": {"grid": 2, "first_ahead": 1, "last_ahead": 1, "context_dims": 16},
    "pirl": {"num_negatives": 300},
    "cmc": {"num_negatives": 300},
    "swav": {"num_prototypes": 40, "queue_length": 2 * BATCH, "queue_from_epoch": 0.0, "rest_steps": 2},
}
"""What makes a step longer without making it another one."""
GENTLER = {"lars": 1.0, "sgd": 0.1, "adamw": 1e-3}
DATA = TrainingData(num_samples=1437, num_classes=10)
CAPTIONED = {
    "vicreg-captions": ("vicreg", {"variance_weight_b": 10.0, "covariance_weight_b": 0.5}),
    "barlow_twins-captions": ("barlow_twins", {}),
    "vse_pp": ("vse_pp", {}),
    "clip": ("clip", {}),
}
"""Runs on images and captions: method and settings of it; of those of one name also the method's own case."""
CASES = [*METHODS, *(case for case in CAPTIONED if case not in METHODS)]
"""All methods, and those that learn from captions too."""
WORDS = tuple(sorted(word_number(word) for word in (*NAMES, "the", "number")))


def small(method: str, digits: Path, precision: str = "float32", **train: Any) -> PretrainConfig:
    """The method's first recipe, or a case of captions, on digits of 16 px with a narrow encoder.

    digits: the folder of betons; those of captions are in its folder `captions`.
    """
    captioned = method in CAPTIONED
    method, settings = CAPTIONED.get(method, (method, {}))
    digits = digits / "captions" if captioned else digits
    config = next(iter(methods.load(method).RECIPES.values())).pretrain
    views = tuple(
        dataclasses.replace(view, image_size=view.image_size and (8 if view.count > 2 else 16)) for view in config.views
    )
    paths = {"train": str(digits / "train.beton"), "val": str(digits / "val.beton")}
    # Among many rows of a random queue a difference in what was learned would not be seen.
    shorter = {"queue_length": 16 * BATCH} if hasattr(config.method, "queue_length") else {}
    return dataclasses.replace(
        config,
        method=dataclasses.replace(config.method, **(shorter | FEWER.get(method, {}) | settings)),
        data=dataclasses.replace(DIGITS, image_size=16, eval_resize=16, **paths),
        views=(dataclasses.replace(views[0], image_size=16),) if captioned else views,
        model=dataclasses.replace(
            config.model,
            encoder="resnet10-narrow",
            small_images=True,
            expander="48-48",
            **({"encoder_b": "gru-8-12", "expander_b": "", "num_words": len(WORDS)} if captioned else {}),
        ),
        # Rounding grows with every step, and with its length, which AdamW does not take from the gradient.
        optimizer=dataclasses.replace(
            config.optimizer,
            base_lr=(0.001 if precision == "float32" else 0.1) * GENTLER[config.optimizer.name],
            warmup_epochs=0.0,
        ),
        train=dataclasses.replace(
            config.train, epochs=1, global_batch=BATCH, precision=precision, log_every_steps=1, **train
        ),
    )


def data_for(config: PretrainConfig) -> TrainingData:
    """What a method may know of the data of a case."""
    return dataclasses.replace(DATA, words=WORDS) if config.other_kinds else DATA


def random_views(config: PretrainConfig, rows: int = 8) -> list[Tensor]:
    """Views as the networks take them, of made-up images and, if so, captions of three words or fewer."""
    views = [torch.randn(rows, 3, view.image_size, view.image_size) for view in config.each_view]
    if config.other_kinds:
        captions = torch.tensor(WORDS)[torch.randint(len(WORDS), (rows, 3))]
        captions[::3, 2] = PADDING
        captions[1, 0] = 1  # a word that nobody knows
        views.append(captions)
    return views


def assert_same(first: Any, second: Any, name: str) -> None:
    """Equal to the bit, in tensors and whatever holds them."""
    if isinstance(first, Tensor):
        assert torch.equal(first, second), name
    elif isinstance(first, dict):
        assert first.keys() == second.keys(), name
        for key in first:
            assert_same(first[key], second[key], f"{name}.{key}")
    else:
        assert first == second, name
