"""What an evaluation takes, roughly: the images that pass through the encoder, and the seconds beside that."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # the tree that this file stands in, whatever is installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from torch.utils.flop_counter import FlopCounterMode

from border.documents import read_json
from disk.whole_files import write_text
from vicreg import methods
from vicreg.config import ModelConfig
from vicreg.cost.weightless import encoder_on_meta

TABLE = Path(__file__).with_name("encoder_flops.json")
BACKWARD = 2
"""Arithmetic of a backward pass over that of a forward pass."""
BESIDE_S = {"few_labels": 600.0, "gallery": 300.0, "knn": 300.0, "retrieval": 120.0, "svm": 3600.0}
"""Work that is not the encoder's: regressions, t-SNE, comparisons."""


DETECTOR = 2.0
"""Arithmetic of a detector over that of its encoder, roughly: regions and pyramid cost as much again."""
LONG_OVER_SHORT = 4 / 3  # of a usual photo


def images_passed(
    module: str, settings: Mapping[str, Any], num_train: int, num_val: int, image_size: int = 224
) -> float:
    """Forward passes of one image that an evaluation with these settings makes; a backward pass counts as two.

    image_size: side in pixels of such an image; larger ones, which detectors look at, count by their area.
    """
    if module == "detection":
        learned = (1 + BACKWARD) * settings["steps"] * settings["batch"]
        sides = (learned, settings["short_sides"][1]), (num_val, settings["test_short_side"])
        return DETECTOR * float(sum(images * LONG_OVER_SHORT * side**2 / image_size**2 for images, side in sides))
    if module == "linear_segmentation":
        return float((settings["steps"] * settings["batch"] + num_val) * settings["crop"] ** 2 / image_size**2)
    if module == "retrieval":
        return float(num_val)
    epochs = settings.get("epochs", 0)
    if module == "linear":
        return float(epochs * num_train + num_val)
    if module == "semisup":
        share = settings.get("fraction", 1.0) if not settings.get("subset") else 0.1
        return float(epochs * ((1 + BACKWARD) * share * num_train + num_val))
    return float(num_train + num_val)


def seconds_beside(module: str) -> float:
    """Seconds that an evaluation takes beside the encoder's passes, for ImageNet's number of images or fewer."""
    return BESIDE_S.get(module, 60.0)


@functools.cache
def forward_flops(model: ModelConfig, image_size: int) -> float:
    """Floating-point operations of the encoder on one image of so many pixels a side, or on a clip of sound.

    Of the recipes' encoders they stand in a table, which saves loading what it takes to count them.
    """
    return _table().get(_key(model, image_size)) or counted_flops(model, image_size)


def counted_flops(model: ModelConfig, image_size: int) -> float:
    """The same, counted."""
    sound, encoder = model.sound, encoder_on_meta(model).eval()
    shape = (1, sound.clip_samples) if sound.is_on else (model.in_channels, image_size, image_size)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        encoder(torch.empty(1, *shape, device="meta"))
    return float(counter.get_total_flops())


@functools.cache
def _table() -> dict[str, float]:
    return read_json(TABLE, dict[str, float], "python -m vicreg.cost.evaluations writes it")


def _key(model: ModelConfig, image_size: int) -> str:
    if model.sound.is_on:
        return ""
    stem = f", stem for small images with padding {model.stem_padding}" if model.small_images else ""
    return f"{model.encoder} at {image_size} px, {model.in_channels} channels, {model.colours}{stem}"


def count_recipes() -> dict[str, float]:
    """The table: encoders of all recipes at the size at which they are measured."""
    recipes = [recipe.pretrain for name in methods.names() for recipe in methods.load(name).RECIPES.values()]
    asked = {_key(run.model, run.data.image_size): (run.model, run.data.image_size) for run in recipes}
    return {key: counted_flops(*asked[key]) for key in sorted(asked) if key}


if __name__ == "__main__":
    write_text(TABLE, json.dumps(count_recipes(), indent=1) + "\n")
