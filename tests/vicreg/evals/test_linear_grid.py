"""The linear protocol with a grid of heads, VISSL's settings, stops on the way: beside single runs and torch's own."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.vicreg.evals.small_splits import multi_label_splits
from vicreg.config import DataConfig
from vicreg.data.loaders import open_views
from vicreg.evals.features import Pixels, open_splits
from vicreg.evals.linear import Config, epoch_rate, evaluate
from vicreg.evals.work import STATE_FOLDER, Stopped, Work

CPU = torch.device("cpu")
SINGLE = Config(epochs=3, batch=32, lr=0.02, weight_decay=0.01, seed=3)
GRID = replace(SINGLE, grid_lrs=(0.3, 0.02), grid_weight_decays=(0.0,))
VISSL = replace(SINGLE, epochs=4, milestones=(1, 3), nesterov=True, batch_norm=True)


def test_every_head_of_a_grid_is_its_own_run(meaningless: DataConfig) -> None:
    splits, encoder = open_splits(meaningless, CPU, 1), Pixels(8)
    grid = evaluate(encoder, splits, GRID)
    curves = grid.details["heads"]
    assert [(curve["lr"], curve["weight_decay"]) for curve in curves] == [
        (0.02, 0.01),
        (0.02, 0.0),
        (0.3, 0.01),
        (0.3, 0.0),
    ]
    assert [curve["published"] for curve in curves] == [True, False, False, False]
    for curve in curves:
        alone = evaluate(encoder, splits, replace(SINGLE, lr=curve["lr"], weight_decay=curve["weight_decay"]))
        (expected,) = alone.details["heads"]
        assert (curve["top1"], curve["top5"]) == (expected["top1"], expected["top5"])
        assert curve["loss"] == pytest.approx(expected["loss"], rel=1e-5)
        assert len(curve["top1"]) == grid.details["epochs"] == 3
    assert len({tuple(curve["top1"]) for curve in curves}) > 1


def test_the_published_head_counts_and_the_best_stands_beside_it(meaningless: DataConfig) -> None:
    splits, encoder = open_splits(meaningless, CPU, 1), Pixels(8)
    grid, single = evaluate(encoder, splits, GRID), evaluate(encoder, splits, SINGLE)
    assert single.metrics.keys() == {"top1", "top5", "top1_last_epoch", "top5_last_epoch"}
    assert {name: grid.metrics[name] for name in single.metrics} == single.metrics
    best = max(grid.details["heads"], key=lambda curve: max(curve["top1"]))
    assert grid.details["grid_best"] == {"lr": best["lr"], "weight_decay": best["weight_decay"]}
    assert grid.metrics["top1_grid_best"] == max(best["top1"])
    assert grid.metrics["top5_grid_best"] == max(best["top5"])


def test_a_diverged_head_has_no_curve_and_the_others_have_theirs(meaningless: DataConfig) -> None:
    splits, encoder = open_splits(meaningless, CPU, 1), Pixels(8)
    with_diverged = evaluate(encoder, splits, replace(SINGLE, grid_lrs=(1e38,)))
    alone = evaluate(encoder, splits, SINGLE)
    good, bad = with_diverged.details["heads"]
    assert good["top1"] == alone.details["heads"][0]["top1"]
    assert bad["top1"] == bad["top5"] == bad["loss"] == [None, None, None]
    assert with_diverged.details["grid_best"]["lr"] == 0.02
    assert with_diverged.metrics["top1_grid_best"] == alone.metrics["top1"]


def test_rates_fall_as_a_cosine_or_at_milestones() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 1.0)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)
    for epoch in range(10):
        assert epoch_rate(epoch, 10) == pytest.approx(cosine.get_last_lr()[0], rel=1e-12)
        optimizer.step()
        cosine.step()
    rates = [epoch_rate(epoch, 6, (2, 4)) for epoch in range(6)]
    assert rates == pytest.approx([1.0, 1.0, 0.1, 0.1, 0.01, 0.01], rel=1e-12)


def test_equals_the_settings_of_vissl_written_out(meaningless: DataConfig) -> None:
    splits, encoder = open_splits(meaningless, CPU, 1), Pixels(8)
    measured = evaluate(encoder, splits, VISSL)

    norm, linear = nn.BatchNorm1d(192, eps=1e-5, momentum=0.1), nn.Linear(192, 6)
    nn.init.normal_(linear.weight, 0.0, 0.01, generator=torch.Generator().manual_seed(3))
    nn.init.zeros_(linear.bias)
    groups = [{"params": linear.parameters(), "weight_decay": 0.01}, {"params": norm.parameters()}]
    optimizer = torch.optim.SGD(groups, 0.02, momentum=0.9, nesterov=True)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [1, 3], gamma=0.1)
    val = splits.features(encoder, "val")
    loader = open_views(
        meaningless,
        splits.beton("train"),
        (VISSL.view(),),
        seed=3,
        global_batch=32,
        rank=0,
        world_size=1,
        device=CPU,
        workers=1,
        interpolation="bilinear",
    )
    top1, top5, losses = [], [], []
    for epoch in range(VISSL.epochs):
        norm.train()
        losses.append(0.0)
        for batch in loader.batches(epoch):
            optimizer.zero_grad()
            loss = F.cross_entropy(linear(norm(splits.normalise(batch.views[0]).flatten(1))), batch.labels)
            loss.backward()
            optimizer.step()
            losses[-1] += float(loss.detach()) / loader.num_batches
        scheduler.step()
        norm.eval()
        hits = linear(norm(val.values)).argsort(dim=1, descending=True) == val.labels[:, None]
        top1.append(100 * int(hits[:, :1].sum()) / 210)
        top5.append(100 * int(hits[:, :5].sum()) / 210)
    (curve,) = measured.details["heads"]
    assert (curve["top1"], curve["top5"]) == (pytest.approx(top1), pytest.approx(top5))
    assert curve["loss"] == pytest.approx(losses, rel=1e-5)


@pytest.mark.parametrize("steps", [1, 4, 6, 11])
@pytest.mark.parametrize("config", [GRID, VISSL], ids=["grid", "vissl"])
def test_stopping_and_going_on_gives_the_same_bits(
    config: Config, steps: int, meaningless: DataConfig, tmp_path: Path
) -> None:
    splits = open_splits(meaningless, CPU, 1)
    whole = evaluate(Pixels(8), splits, config)
    asked = itertools.count(1)
    with pytest.raises(Stopped, match=f"stopped at step {steps}"):
        evaluate(Pixels(8), splits, config, Work(tmp_path, should_stop=lambda: next(asked) >= steps))
    assert (tmp_path / STATE_FOLDER).is_dir()
    done: list[tuple[int, int]] = []
    again = Work(tmp_path, beat=lambda step, num_steps: done.append((step, num_steps)))
    assert evaluate(Pixels(8), splits, config, again) == whole
    num_steps = 4 * config.epochs  # 128 images in batches of 32
    assert done == [(step, num_steps) for step in range(steps + 1, num_steps + 1)]


def test_images_of_several_classes_are_refused() -> None:
    rows, labels = np.eye(4, dtype=np.float32), np.ones((4, 3), dtype=np.int8)
    encoder, splits = multi_label_splits(rows, labels, rows, labels)
    with pytest.raises(ValueError, match="allowed for linear: one class per image; the evaluation of such data is svm"):
        evaluate(encoder, splits, SINGLE)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"grid_lrs": (0.1, 0.0)}, r"grid_lrs is \(0.1, 0.0\), allowed: numbers above 0"),
        ({"grid_weight_decays": (-1.0,)}, r"grid_weight_decays is \(-1.0,\), allowed: numbers of 0 or more"),
        ({"epochs": 4, "milestones": (2, 4)}, r"milestones is \(2, 4\), allowed: ascending numbers of epochs from 1"),
        ({"epochs": 4, "milestones": (0,)}, r"milestones is \(0,\), allowed: ascending numbers of epochs from 1 to 3"),
        ({"epochs": 4, "milestones": (3, 1)}, r"milestones is \(3, 1\), allowed: ascending"),
    ],
)
def test_bad_grids_and_schedules_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Config(**settings)
