"""Fine-tuning: where its answer is known, beside the official steps, stopped and gone on, on several ranks."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dataprep.beton.contract import BetonError, open_beton
from tests.ranks import run_ranks
from tests.vicreg.evals.small_splits import multi_label_splits
from vicreg.config import DataConfig
from vicreg.data.loaders import open_views
from vicreg.evals.features import open_splits
from vicreg.evals.semisup import Config, choose_labelled, evaluate
from vicreg.evals.work import STATE_FOLDER, Stopped, Work

CPU = torch.device("cpu")
HALF = Config(subset="", fraction=0.5, batch=30, epochs=3, lr_encoder=0.05, lr_head=0.3, seed=2)


class Small(nn.Module):
    """An encoder with batch norm and dropout."""

    num_features = 10

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.layers = nn.Sequential(
                nn.Flatten(), nn.Linear(192, 10), nn.BatchNorm1d(10), nn.ReLU(), nn.Dropout(0.1)
            )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, 8, 8) to (B, 10)."""
        features: torch.Tensor = self.layers(images)
        return features


def test_separable_images_reach_100_percent(separable: DataConfig) -> None:
    measured = evaluate(Small(), open_splits(separable, CPU, 1), replace(HALF, epochs=12))
    assert measured.metrics["top1"] == 100.0
    assert len(measured.details["top1"]) == 12
    assert measured.details["num_labelled"] == 66


def test_random_labels_are_at_chance(meaningless: DataConfig) -> None:
    metrics = evaluate(Small(), open_splits(meaningless, CPU, 1), HALF).metrics
    assert abs(metrics["top1_last_epoch"] - 100 / 6) < 100 * 3.3 * math.sqrt(1 / 6 * 5 / 6 / 210)  # 99.9 %


def test_equals_the_official_steps_written_out(meaningless: DataConfig) -> None:
    splits, encoder = open_splits(meaningless, CPU, 1), Small()
    measured = evaluate(encoder, splits, HALF)

    model = nn.Sequential(copy.deepcopy(encoder), nn.Linear(10, 6))
    nn.init.normal_(model[1].weight, std=0.01, generator=torch.Generator().manual_seed(2))
    nn.init.zeros_(model[1].bias)
    groups = [{"params": model[0].parameters(), "lr": 0.05}, {"params": model[1].parameters(), "lr": 0.3}]
    optimizer = torch.optim.SGD(groups, momentum=0.9, weight_decay=0.0)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, HALF.epochs)
    loader = open_views(
        meaningless,
        splits.beton("train"),
        (HALF.view(),),
        seed=2,
        global_batch=30,
        rank=0,
        world_size=1,
        device=CPU,
        workers=1,
        interpolation="bilinear",
        subset=choose_labelled(splits, HALF),
    )
    step, percent = 0, []
    for epoch in range(HALF.epochs):
        model.train()
        for batch in loader.batches(epoch):
            torch.manual_seed((2 * 1_000_003 + step) * 65_537)  # as vicreg/training/learner.py has it for rank 0
            optimizer.zero_grad()
            F.cross_entropy(model(splits.normalise(batch.views[0])), batch.labels).backward()
            optimizer.step()
            step += 1
        scheduler.step()
        val = splits.features(copy.deepcopy(model[0]), "val")
        percent.append(100 * int((model[1](val.values).argmax(1) == val.labels).sum()) / 210)
    assert measured.details["top1"] == pytest.approx(percent)
    assert measured.metrics["top1"] == max(percent)
    assert measured.metrics["top1_last_epoch"] == percent[-1]


def test_the_encoder_stays_as_it_was(separable: DataConfig) -> None:
    encoder = Small().eval()
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    evaluate(encoder, open_splits(separable, CPU, 1), HALF)
    assert all(torch.equal(tensor, before[name]) for name, tensor in encoder.state_dict().items())
    assert not encoder.training


def stop_after(steps: int) -> Work:
    """A signal that comes after some steps, and no place to save."""
    left = [steps]

    def should_stop() -> bool:
        left[0] -= 1
        return left[0] < 0

    return Work(should_stop=should_stop)


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_stopping_and_going_on_gives_the_same_bits(meaningless: DataConfig, tmp_path: Path, steps: int) -> None:
    splits = open_splits(meaningless, CPU, 1)
    whole = evaluate(Small(), splits, HALF)
    work = stop_after(steps)
    work.folder = tmp_path
    with pytest.raises(Stopped):
        evaluate(Small(), splits, HALF, work)
    assert (tmp_path / STATE_FOLDER).is_dir()
    again = Work(tmp_path)
    assert evaluate(Small(), splits, HALF, again) == whole
    again.forget()
    assert not (tmp_path / STATE_FOLDER).exists()


def test_the_state_of_something_else_is_ignored(
    meaningless: DataConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    splits = open_splits(meaningless, CPU, 1)
    work = stop_after(2)
    work.folder, work.belongs_to = tmp_path, {"encoder": "one"}
    with pytest.raises(Stopped):
        evaluate(Small(), splits, HALF, work)
    with caplog.at_level("INFO"):
        assert evaluate(Small(), splits, HALF, Work(tmp_path, {"encoder": "other"})) == evaluate(Small(), splits, HALF)
    assert "begun anew" in caplog.text


class Plain(Small):
    """Without dropout, whose numbers depend on the rank's share of a batch."""

    def __init__(self) -> None:
        super().__init__()
        self.layers[4] = nn.Identity()


def measure(data: DataConfig) -> dict[str, float]:
    """All metrics on these ranks."""
    return evaluate(Plain(), open_splits(data, CPU, 1), HALF).metrics


@pytest.mark.parametrize("num_ranks", [2, 3])
def test_nothing_depends_on_the_ranks(num_ranks: int, meaningless: DataConfig, tmp_path: Path) -> None:
    assert run_ranks(measure, num_ranks, tmp_path, meaningless) == measure(meaningless)


def test_drawn_labels_are_balanced_and_a_missing_list_names_its_command(separable: DataConfig) -> None:
    splits = open_splits(separable, CPU, 1)
    chosen = choose_labelled(splits, HALF)
    labels = open_beton(splits.beton("train")).labels[chosen]
    counts = [int((labels == label).sum()) for label in range(splits.num_classes)]
    assert max(counts) - min(counts) <= 1
    with pytest.raises(BetonError, match=r"write_ffcv.py subset .* --name simclr-1percent --list 1percent.txt"):
        choose_labelled(splits, Config())


def test_too_few_labels_for_a_batch_are_said(separable: DataConfig) -> None:
    with pytest.raises(ValueError, match="batch is 256, allowed: up to the 66 labelled images"):
        evaluate(Small(), open_splits(separable, CPU, 1), Config(subset="", fraction=0.5))


def test_diverging_names_the_rates_and_the_epoch(separable: DataConfig) -> None:
    config = replace(HALF, lr_encoder=1e30)
    with pytest.raises(ValueError, match=r"lr_encoder, lr_head is \(1e\+30, 0.3\), allowed: .*diverged in epoch 2"):
        evaluate(Small(), open_splits(separable, CPU, 1), config)


def test_images_of_several_classes_are_refused() -> None:
    rows, labels = np.eye(4, dtype=np.float32), np.ones((4, 3), dtype=np.int8)
    encoder, splits = multi_label_splits(rows, labels, rows, labels)
    with pytest.raises(ValueError, match="allowed for semisup: one class per image"):
        evaluate(encoder, splits, HALF)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fraction": 0.0}, "fraction is 0.0, allowed: above 0, up to 1"),
        ({"epochs": 0}, "epochs is 0, allowed: 1 or more"),
        ({"batch": 1}, "batch is 1, allowed: 2 or more"),
        ({"lr_encoder": -0.1}, "lr_encoder is -0.1, allowed: 0 or more"),
        ({"lr_head": 0.0}, "lr_head is 0.0, allowed: above 0"),
        ({"momentum": 1.0}, "momentum is 1.0"),
        ({"weight_decay": -1.0}, "weight_decay is -1.0"),
        ({"hflip_p": 2.0}, "hflip_p is 2.0"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Config(**settings)
