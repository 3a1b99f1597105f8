"""Settings that few images do not allow are fitted to them, with a word; what was given by option is never changed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from dataprep.beton.contract import BetonError
from tests.vicreg.evals.small_splits import CPU, coloured_noise
from vicreg.config import DataConfig
from vicreg.evals import few_labels, gallery, knn, linear, semisup, svm
from vicreg.evals.features import Splits, open_splits
from vicreg.evals.results import CannotMeasure

NUM_TRAIN, NUM_CLASSES = 24, 3


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Splits:
    """Betons of 24 training images of three classes."""
    data = coloured_noise(tmp_path_factory.mktemp("few"), NUM_TRAIN, 9, NUM_CLASSES, signal=1.0)
    return open_splits(data, CPU, workers=1)


@pytest.mark.parametrize(
    ("module", "fits", "note"),
    [
        (knn, {"neighbours": (20,)}, "20 neighbours instead of 20, 200, for 24 training images"),
        (few_labels, {"label_counts": (3, 15, 24)}, ""),
        (linear, {"batch": 4}, "batch 4 instead of 256, for 24 training images"),
        (semisup, {"subset": "", "fraction": 0.01, "batch": 3}, "0.01 of each class drawn with seed 0"),
        (gallery, {"neighbours": 6}, ""),
    ],
)
def test_defaults_fit_few_images_and_say_so(module: Any, fits: dict[str, Any], note: str, few: Splits) -> None:
    config, notes = module.fitted(module.Config(), few, ())
    assert config == replace(module.Config(), **fits)
    assert note in "; ".join(notes)
    assert bool(notes) == bool(note)
    again, more = module.fitted(config, few, ())
    assert (again, more) == (config, [])


@pytest.mark.parametrize("module", [knn, few_labels, linear, semisup])
def test_what_was_fitted_can_be_measured(module: Any, few: Splits) -> None:
    short = {"epochs": 1} if module in (linear, semisup) else {}
    config, _ = module.fitted(module.Config(**short), few, ())
    encoder = _Mean()
    assert module.evaluate(encoder, few, config).metrics


def test_settings_that_were_given_stay_and_are_refused(few: Splits) -> None:
    for module, name, value in ((knn, "neighbours", (200,)), (few_labels, "label_counts", (1437,))):
        config = replace(module.Config(), **{name: value})
        assert module.fitted(config, few, {name: value}) == (config, [])
        with pytest.raises(CannotMeasure, match="allowed: up to the 24 training images"):
            module.evaluate(_Mean(), few, config)
    config, _ = semisup.fitted(semisup.Config(batch=64), few, {"batch": 64})
    assert config.batch == 64
    with pytest.raises(BetonError, match="make it: "):
        semisup.fitted(semisup.Config(subset="mine"), few, {"subset": "mine"})


def test_the_published_ten_per_cent_are_drawn_as_ten_per_cent(few: Splits) -> None:
    config, _ = semisup.fitted(semisup.Config(subset="simclr-10percent"), few, ())
    assert (config.subset, config.fraction) == ("", 0.1)
    config, _ = semisup.fitted(semisup.Config(subset="simclr-10percent", fraction=0.5), few, {"fraction": 0.5})
    assert config.fraction == 0.5


def test_images_without_enough_of_any_class_for_three_folds_get_two(monkeypatch: pytest.MonkeyPatch) -> None:
    two_of_each = np.where(np.tile(np.eye(4, dtype=bool), (2, 1)), 1, -1).astype(np.int8)
    for labels, folds in ((two_of_each, 2), (np.tile(two_of_each, (2, 1)), 3)):
        monkeypatch.setattr(Splits, "labels", lambda *_, labels=labels: labels)
        config, notes = svm.fitted(svm.Config(), Splits(DataConfig(), 4, CPU, 1, multi_label=True), ())
        assert (config.folds, len(notes)) == (folds, int(folds == 2))
        assert svm.fitted(svm.Config(), Splits(DataConfig(), 4, CPU, 1), {"folds": 3})[0].folds == 3


class _Mean(nn.Module):
    """Mean colours as features."""

    num_features = 3

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, images: Any) -> Any:
        """Images (B, 3, S, S) to (B, 3)."""
        return self.scale * images.mean((2, 3))
