"""Each method's CIFAR-10 recipe as a benchmark runs it: whole, or as a CPU can do it; one length, batch and schedule.

The small form: images of 24 px, a ResNet of four blocks from 16 channels with ImageNet's stem, widths of 256, 128
images a step, a tenth of the epochs of warm-up, then a cosine to 0. What else differs from the recipe stands in
`SETTINGS`, with the reason.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from vicreg import methods
from vicreg.config import DataConfig, PretrainConfig
from vicreg.method_file import Published

NARROW, SIDE_PX, WIDTH, BATCH, QUEUE = "resnet10-narrow", 24, 256, 128, 1024


@dataclass(frozen=True)
class Setting:
    """What differs in a method's small form."""

    method: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)
    base_lr: float = 0.0
    """0: the recipe's."""
    view_px: int = 0
    """Side of its views; 0: as much smaller than the recipe's as the images are."""


SETTINGS = {
    # Of 3,000 prototypes most would have no image of a batch. Embeddings lie close together in a short run: the
    # sharpest assignment that float32 allows tells them apart. Prototypes rest for an epoch. No queue: a batch has more
    # images than there are prototypes, and in so short a run those of eight steps ago are another network's (20-NN 29.9
    # with one).
    "swav": Setting({"num_prototypes": 100, "epsilon": 0.02, "rest_steps": 39, "queue_length": 0}),
    "simsiam": Setting({"predictor_width": WIDTH // 4}),  # a quarter of the embedding's width, as published
    # Each image is seen 30 times, not 800: with the published rate of 0.03, and embeddings that share a direction for
    # want of batch norm, the bank's entries could hardly be told apart in that time.
    "pirl": Setting({"num_negatives": QUEUE}, {"expander_norm": "plain"}, base_lr=0.3),
    "cmc": Setting({"num_negatives": QUEUE}, {"expander_norm": "plain"}, base_lr=0.3),
    # Patches of 8 px as in the recipe, 4 x 4 of them: predictions and patches of 7 x 7 are 25 times as many products.
    # With context networks as wide as the encoder's output they no longer take nine tenths of the arithmetic.
    "cpc_v2": Setting({"grid": 4, "first_ahead": 2, "last_ahead": 3, "context_dims": 64}, base_lr=1e-3, view_px=20),
}


def names() -> list[str]:
    """The methods of images alone: those that have a CIFAR-10 recipe."""
    recipes = {name: methods.load(name).RECIPES.values() for name in methods.names()}
    return [name for name, own in recipes.items() if any("cifar10/" in recipe.pretrain.data.train for recipe in own)]


def recipe_of(name: str) -> Published:
    """A method's CIFAR-10 recipe."""
    return next(r for r in methods.load(name).RECIPES.values() if "cifar10/" in r.pretrain.data.train)


def whole(name: str, data: DataConfig, epochs: int) -> PretrainConfig:
    """The recipe with another length, on these data, with nearest neighbours beside the online head."""
    config = recipe_of(name).pretrain
    return dataclasses.replace(
        config,
        data=data,
        optimizer=dataclasses.replace(config.optimizer, warmup_epochs=epochs / 10, final_lr_ratio=0.0),
        train=dataclasses.replace(config.train, epochs=epochs, keep_checkpoints=1),
        online=dataclasses.replace(config.online, every_epochs=max(1, epochs // 3)),
    )


def small(name: str, data: DataConfig, epochs: int) -> PretrainConfig:
    """The recipe in its small form; `data` are images of `SIDE_PX`."""
    config, setting = whole(name, data, epochs), SETTINGS.get(name, Setting())
    limits = {"queue_length": QUEUE, "predictor_width": WIDTH}
    narrower = {
        option: min(getattr(config.method, option), limit)
        for option, limit in limits.items()
        if hasattr(config.method, option)
    }
    expander = "-".join(str(min(int(width), WIDTH)) for width in config.model.expander.split("-"))
    whole_px = recipe_of(name).pretrain.data.image_size
    views = tuple(
        dataclasses.replace(view, image_size=setting.view_px or view.image_size * SIDE_PX // whole_px)
        for view in config.views
    )
    return dataclasses.replace(
        config,
        method=dataclasses.replace(config.method, **(narrower | setting.method)),
        views=views,
        model=dataclasses.replace(config.model, encoder=NARROW, small_images=False, expander=expander, **setting.model),
        optimizer=dataclasses.replace(config.optimizer, base_lr=setting.base_lr or config.optimizer.base_lr),
        train=dataclasses.replace(config.train, global_batch=BATCH),
    )
