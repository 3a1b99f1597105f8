"""The presets are the published numbers, typed here a second time from the sources that they name."""

from __future__ import annotations

import importlib
from typing import Any

import pytest

from vicreg.config_json import from_json, to_json
from vicreg.evals import protocols
from vicreg.evals.protocols import COLUMNS, DATA_SETS, PRESETS

CROPS = {"crop_scale": [0.08, 1.0], "hflip_p": 0.5}
FROZEN = {"batch": 256, "momentum": 0.9, "grid_lrs": [], "grid_weight_decays": [], "seed": 0, **CROPS}
IMAGENET_HEAD = {"epochs": 100, "lr": 0.02, "weight_decay": 1e-6, "milestones": [], "nesterov": False}
TRANSFER_HEAD = {"batch_norm": True, "nesterov": True}
PLACES205 = {"milestones": [4, 8, 12], **TRANSFER_HEAD}
INAT18 = {"epochs": 84, "milestones": [24, 48, 72], **TRANSFER_HEAD}
TUNED = {"epochs": 20, "batch": 256, "momentum": 0.9, "weight_decay": 0.0, "fraction": 0.01, "seed": 0, **CROPS}
ONE, TEN = "simclr-1percent", "simclr-10percent"

EXPECTED: dict[str, dict[str, Any]] = {
    "linear": {**FROZEN, **IMAGENET_HEAD, "batch_norm": False},
    "linear-paper": {**FROZEN, **IMAGENET_HEAD, "batch_norm": False, "crop_scale": [0.2, 1.0]},
    "places205": {**FROZEN, **PLACES205, "epochs": 28, "lr": 0.003, "weight_decay": 1e-4},
    "places205-vissl": {**FROZEN, **PLACES205, "epochs": 14, "lr": 0.01, "weight_decay": 5e-4},
    "inat18": {**FROZEN, **INAT18, "lr": 0.005, "weight_decay": 1e-4},
    "inat18-vissl": {**FROZEN, **INAT18, "lr": 0.01, "weight_decay": 5e-4},
    "semisup-1": {**TUNED, "subset": ONE, "lr_encoder": 0.03, "lr_head": 0.08},
    "semisup-10": {**TUNED, "subset": TEN, "lr_encoder": 0.01, "lr_head": 0.1},
    "semisup-1-barlow": {**TUNED, "subset": ONE, "lr_encoder": 0.005, "lr_head": 0.5},
    "semisup-1-swav": {**TUNED, "subset": ONE, "lr_encoder": 0.02, "lr_head": 5.0},
    "semisup-10-swav": {**TUNED, "subset": TEN, "lr_encoder": 0.01, "lr_head": 0.2},
}
DATA = {
    "": protocols.IMAGENET,
    "places205": protocols.PLACES205,
    "inat18": protocols.INAT18,
    "voc07": protocols.VOC07,
    "voc-detection": "VOC07+12",
    "coco-detection": "COCO 2017",
    "coco-captions": "COCO captions",
}


@pytest.mark.parametrize("name", EXPECTED)
def test_a_preset_is_what_was_published(name: str) -> None:
    preset = PRESETS[name]
    assert preset.source
    module = importlib.import_module(f"vicreg.evals.{preset.module}")
    assert to_json(from_json(module.Config, preset.settings)) == EXPECTED[name]


def test_every_preset_that_trains_is_checked_here() -> None:
    assert EXPECTED.keys() == {name for name, preset in PRESETS.items() if preset.module in ("linear", "semisup")}


def test_a_published_column_is_of_the_data_set_that_its_preset_takes() -> None:
    for column in COLUMNS:
        preset = PRESETS[column.evaluation]  # sound is measured on the run's own data, as ImageNet's evaluations are
        assert column.data_set == (protocols.ESC50 if preset.module == "sound" else DATA[preset.data]), column.title


def test_whole_data_sets_are_known_by_their_numbers() -> None:
    for known in DATA_SETS:
        assert protocols.data_set_of(known.num_train, known.num_val, known.num_classes) == known.name
        assert protocols.data_set_of(known.num_train - 1, known.num_val, known.num_classes) == ""
    assert protocols.data_set_of(2_448_873, 20_500, 205) == "Places205"
    assert protocols.data_set_of(437_513, 24_426, 8_142) == "iNaturalist 2018"
    assert protocols.data_set_of(5_011, 4_952, 20) == "VOC07"
