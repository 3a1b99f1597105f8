"""The head that learns beside the encoder: what a plain loop learns, on any number of ranks, without a trace in it."""

from __future__ import annotations

import dataclasses
import io
import math
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from rich.console import Console
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from jobs.planning.recipes import recipe
from tests.ranks import run_ranks
from vicreg import checkpoint
from vicreg.config import ModelConfig, OnlineConfig, OptimizerConfig, PretrainConfig
from vicreg.ranks import distributed
from vicreg.ranks.distributed import Placement
from vicreg.run_files import read_metrics
from vicreg.training.online_head import OnlineHead, head_rate
from vicreg.training.train import CHECKPOINTS, Outcome, train

NUM_STEPS, ROWS, DIMS, CLASSES = 4, 12, 5, 3


def _rows() -> tuple[Tensor, Tensor]:
    """Features (steps, views, rows, dims) and labels (steps, rows)."""
    torch.manual_seed(3)
    return torch.randn(NUM_STEPS, 2, ROWS, DIMS, dtype=torch.float64), torch.randint(CLASSES, (NUM_STEPS, ROWS))


def _new_head() -> nn.Linear:
    torch.manual_seed(4)
    return nn.Linear(DIMS, CLASSES, dtype=torch.float64)


def _learned() -> list[Tensor]:
    """Weight and bias after some steps on this rank's part of the rows, and an accuracy."""
    head = _new_head()
    online = OnlineHead(head, torch.optim.SGD(head.parameters(), lr=0.0, momentum=0.9))
    features, labels = _rows()
    ranks, rank = distributed.world_size(), distributed.rank()
    for views, truth in zip(features, labels, strict=True):
        online.set_rate(0.3)
        online.learn(views.chunk(ranks, 1)[rank].flatten(0, 1), truth.chunk(ranks)[rank])
        online.optimizer.step()
    top1 = online.top1(features[0, 0].chunk(ranks)[rank], labels[0].chunk(ranks)[rank])
    return [head.weight.detach(), head.bias.detach(), torch.tensor(top1)]


@pytest.mark.parametrize("num_ranks", [1, 2, 3])
def test_learns_what_a_plain_loop_learns(num_ranks: int, tmp_path: Path) -> None:
    head = _new_head()
    optimizer = torch.optim.SGD(head.parameters(), lr=0.3, momentum=0.9)
    features, labels = _rows()
    for views, truth in zip(features, labels, strict=True):
        optimizer.zero_grad()
        torch.stack([nn.functional.cross_entropy(head(view), truth) / 2 for view in views]).sum().backward()
        optimizer.step()
    top1 = 100 * (head(features[0, 0]).argmax(1) == labels[0]).double().mean()
    expected = [head.weight.detach(), head.bias.detach(), top1.float()]
    learned = run_ranks(_learned, num_ranks, tmp_path) if num_ranks > 1 else _learned()
    for mine, theirs in zip(learned, expected, strict=True):
        torch.testing.assert_close(mine, theirs)


def _mixture(num: int, seed: int) -> tuple[Tensor, Tensor]:
    """Features (num, 128) of ten classes whose scales and means are far from 1 and 0, and the labels."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(10, (num,), generator=generator)
    centres = torch.randn(10, 128, generator=torch.Generator().manual_seed(9))
    rows = 0.25 * centres[labels] + torch.randn(num, 128, generator=generator)
    return (rows + 5) * torch.logspace(-3, 2, 128), labels


@pytest.mark.parametrize("num_steps", [100, 400])
def test_comes_near_a_regression_on_the_same_features_whatever_their_scale(num_steps: int) -> None:
    rows, labels = _mixture(2000, 1)
    queries, truth = _mixture(2000, 2)
    online = OnlineHead.build(128, 10, like=torch.zeros(1))
    for step in range(num_steps):
        batch = torch.randint(len(rows), (128,), generator=torch.Generator().manual_seed(step))
        online.set_rate(head_rate(OnlineConfig.lr, step, num_steps))
        online.learn(rows[batch], labels[batch])
        online.optimizer.step()
    mean, std = rows.mean(0), rows.std(0)
    regression = LogisticRegression(C=0.1).fit(((rows - mean) / std).numpy(), labels.numpy())
    best = 100 * regression.score(((queries - mean) / std).numpy(), truth.numpy())
    assert best > 75  # chance is 10
    assert online.top1(queries, truth) > best - 4


def test_a_step_that_is_left_out_leaves_nothing_in_the_head() -> None:
    online = OnlineHead.build(128, 10, like=torch.zeros(1))
    rows, labels = _mixture(64, 1)
    online.set_rate(1e-3)
    online.learn(rows, labels)
    online.keep_if(torch.tensor(True))
    before = {name: value.clone() for name, value in online.head.state_dict().items()}
    online.learn(rows * math.nan, labels)
    online.keep_if(torch.tensor(False))
    for name, value in online.head.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_the_head_of_an_earlier_version_begins_anew(caplog: pytest.LogCaptureFixture) -> None:
    old = OnlineHead(_new_head(), torch.optim.SGD(_new_head().parameters(), lr=0.1)).state()
    online = OnlineHead.build(DIMS, CLASSES, like=torch.zeros(1))
    before = {name: value.clone() for name, value in online.head.state_dict().items()}
    online.load(old)
    assert "begins anew" in caplog.text
    assert all(torch.equal(value, before[name]) for name, value in online.head.state_dict().items())


def _config(digits: Path, every_epochs: int) -> PretrainConfig:
    config = recipe("digits").pretrain
    train_beton, val_beton = (str(digits / f"{split}.beton") for split in ("train", "val"))
    return dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, train=train_beton, val=val_beton, image_size=16, eval_resize=16),
        model=ModelConfig("resnet10-narrow", True, "48-48"),
        optimizer=OptimizerConfig(base_lr=0.3, warmup_epochs=0.0, trust_coefficient=0.02, clip_lr=True),
        train=dataclasses.replace(config.train, global_batch=240, epochs=4, log_every_steps=1),
        online=OnlineConfig(every_epochs),
    )


def _train(config: PretrainConfig, run: Path, last_step: int = 0) -> dict[str, Any]:
    """The last checkpoint's content after training, or after so many steps."""
    run.mkdir(exist_ok=True)
    outcome = train(config, run, Placement(0, 1, 0, 1), lambda step: step == last_step, Console(file=io.StringIO()))
    assert outcome == (Outcome.STOPPED if last_step else Outcome.FINISHED)
    state = checkpoint.load_newest(run / CHECKPOINTS)
    assert state is not None
    return state


def test_a_run_is_measured_as_it_goes_on_and_not_changed_by_it(digits_folder: Path, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    plain, measured = (_train(_config(digits_folder, every), tmp_path / str(every)) for every in (0, 2))
    for name, value in plain["method"].items():
        assert torch.equal(value, measured["method"][name]), name
    lines = read_metrics(tmp_path / "2")
    steps_per_epoch = len(lines) // 4
    assert [line["step"] for line in lines if "online_top1" in line] == [2 * steps_per_epoch - 1, len(lines) - 1]
    assert 15 < lines[-1]["online_top1"] <= 100  # chance is 10
    assert 15 < lines[-1]["knn_top1"] <= 100
    assert not any("online_top1" in line or "knn_top1" in line for line in read_metrics(tmp_path / "0"))


@pytest.mark.slow
def test_a_run_in_float64_is_measured_too(digits_folder: Path, tmp_path: Path) -> None:
    config = _config(digits_folder, 1)
    train_config = dataclasses.replace(config.train, precision="float64", epochs=1)
    state = _train(dataclasses.replace(config, train=train_config), tmp_path / "run")
    assert state["online"]["head"]["1.weight"].dtype == torch.float64
    assert "online_top1" in read_metrics(tmp_path / "run")[-1]


@pytest.mark.parametrize("order", ["shuffled", pytest.param("blocks", marks=pytest.mark.slow)])
def test_stop_and_resume_give_the_same_bits(
    digits_folder: Path, tmp_path: Path, order: Literal["shuffled", "blocks"]
) -> None:
    torch.set_num_threads(1)
    config = _config(digits_folder, 2)
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, order=order, block_samples=2))
    whole = _train(config, tmp_path / "whole")
    _train(config, tmp_path / "parts", last_step=7)
    parts = _train(config, tmp_path / "parts")
    for state, resumed in ((whole["method"], parts["method"]), (whole["online"]["head"], parts["online"]["head"])):
        for name, value in state.items():
            assert torch.equal(value, resumed[name]), name
    kept = [
        [{name: line.get(name) for name in ("step", "loss", "online_top1", "knn_top1")} for line in read_metrics(run)]
        for run in (tmp_path / "whole", tmp_path / "parts")
    ]
    assert kept[0] == kept[1]
