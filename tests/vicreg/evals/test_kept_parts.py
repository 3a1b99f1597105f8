"""Work of a job that is killed: the next one goes on from the parts, and measures the same bits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.vicreg.evals.small_splits import multi_label_splits, splits_of
from vicreg.config import DataConfig
from vicreg.evals import few_labels, kept_features, kept_parts, knn, svm
from vicreg.evals.features import Splits, open_splits

CPU = torch.device("cpu")
KILLED_AFTER = 7  # batches of 128 of the 1,437 digits


class Killed(Exception):
    """What ends the first try."""


class Encoder(nn.Module):
    """A convolution that counts the batches that pass, and may be ended by one."""

    num_features = 32

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.layer = nn.Conv2d(3, 2, 3, stride=2, padding=1)
        self.seen, self.last = 0, 10**6

    def forward(self, images: Tensor) -> Tensor:
        if self.seen == self.last:
            raise Killed
        self.seen += 1
        features: Tensor = self.layer(images).flatten(1)
        return features


@pytest.fixture
def splits(digits_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Splits:
    """The digits at 8 px, with parts after every batch."""
    monkeypatch.setattr(kept_features, "KEEP_EVERY_S", 0.0)
    train, val = str(digits_folder / "train.beton"), str(digits_folder / "val.beton")
    data = DataConfig(train=train, val=val, image_size=8, eval_resize=8)
    return replace(open_splits(data, CPU, 1), parts=tmp_path / "parts")


def _features(splits: Splits, encoder: nn.Module) -> Tensor:
    return replace(splits).features(encoder, "train").values


@pytest.fixture
def undisturbed(splits: Splits) -> Tensor:
    """What is right."""
    return _features(replace(splits, parts=None), Encoder())


def _kill(splits: Splits) -> None:
    encoder = Encoder()
    encoder.last = KILLED_AFTER
    with pytest.raises(Killed):
        _features(splits, encoder)


def _parts(splits: Splits) -> list[Path]:
    assert splits.parts
    return sorted(splits.parts.glob("*/rows_*"))


def test_a_killed_job_goes_on_from_the_parts(splits: Splits, undisturbed: Tensor) -> None:
    _kill(splits)
    assert len(_parts(splits)) == KILLED_AFTER
    encoder = Encoder()
    assert torch.equal(_features(splits, encoder), undisturbed)
    assert encoder.seen == 12 - KILLED_AFTER


def test_a_damaged_part_is_computed_again(splits: Splits, undisturbed: Tensor) -> None:
    _kill(splits)
    part = _parts(splits)[3]
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 1
    part.write_bytes(content)
    encoder = Encoder()
    assert torch.equal(_features(splits, encoder), undisturbed)
    assert encoder.seen == 12 - KILLED_AFTER + 1


@pytest.mark.parametrize("changed", ["weights", "settings", "data"])
def test_parts_of_anything_else_are_not_taken(splits: Splits, digits_folder: Path, changed: str) -> None:
    _kill(splits)
    encoder = Encoder()
    if changed == "weights":
        nn.init.zeros_(encoder.layer.bias)
    elif changed == "settings":
        splits = replace(splits, data=replace(splits.data, mean=(0.5, 0.5, 0.5)))
    else:
        splits = replace(splits, data=replace(splits.data, train=str(digits_folder / "val.beton")))
    _features(splits, encoder)
    assert encoder.seen == (3 if changed == "data" else 12)


def test_whoever_watches_hears_of_every_batch(splits: Splits) -> None:
    heard: list[int] = []
    _features(replace(splits, heard=lambda: heard.append(1)), Encoder())
    assert len(heard) == 12


RANDOM = np.random.default_rng(0)
ROWS = [RANDOM.standard_normal((num, 6)).astype(np.float32) for num in (90, 30)]
CLASSES = [[row % 3 for row in range(num)] for num in (90, 30)]
PRESENT = [np.eye(3, dtype=np.int8)[classes] * 2 - 1 for classes in CLASSES]
EVALUATIONS = {
    "few_labels": (few_labels, few_labels.Config(label_counts=(6, 30), draws=4), "fit_and_predict", 8),
    "knn": (knn, knn.Config(neighbours=(5,)), "_key", 9),
    "svm": (svm, svm.Config(costs=(0.1, 1.0), folds=2), "cross_validate", 12),
}


@pytest.mark.parametrize("name", EVALUATIONS)
def test_a_killed_evaluation_does_what_is_left(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_parts, "KEEP_EVERY_S", 0.0)
    monkeypatch.setattr(knn, "TRAIN_BLOCK", 10)
    module, config, work, num_all = EVALUATIONS[name]
    train, val = ROWS
    if name == "svm":
        encoder, splits = multi_label_splits(train, PRESENT[0], val, PRESENT[1])
    else:
        encoder, splits = splits_of(train, CLASSES[0], val, CLASSES[1])
    right = module.evaluate(encoder, splits, config)
    splits_with_parts = replace(splits, parts=tmp_path)
    splits_with_parts._kept.update(splits._kept)

    real, done = getattr(module, work), 0

    def one(*given: Any) -> Any:
        nonlocal done
        done += 1
        if done == 6:
            raise Killed
        return real(*given)

    monkeypatch.setattr(module, work, one)
    with pytest.raises(Killed):
        module.evaluate(encoder, splits_with_parts, config)
    assert module.evaluate(encoder, splits_with_parts, config) == right
    assert done == num_all + 1  # the sixth twice
