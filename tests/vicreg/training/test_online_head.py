"""The head that learns beside the encoder: what a plain loop learns, on any number of ranks, without a trace in it."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

from jobs.planning.recipes import recipe
from tests.ranks import run_ranks
from vicreg import checkpoint
from vicreg.config import ModelConfig, OnlineConfig, OptimizerConfig, PretrainConfig
from vicreg.ranks import distributed
from vicreg.ranks.distributed import Placement
from vicreg.training.metrics import read_metrics
from vicreg.training.online_head import OnlineHead
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
        online.learn(views.chunk(ranks, 1)[rank].flatten(0, 1), truth.chunk(ranks)[rank], 0.3)
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


def _config(digits: Path, every_epochs: int) -> PretrainConfig:
    config = recipe("digits").pretrain
    train_beton, val_beton = (str(digits / f"{split}.beton") for split in ("train", "val"))
    return dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, train=train_beton, val=val_beton, image_size=16, eval_resize=16),
        model=ModelConfig("resnet10-narrow", True, "48-48"),
        optimizer=OptimizerConfig(base_lr=0.3, warmup_epochs=0.0, trust_coefficient=0.02, clip_lr=True),
        train=dataclasses.replace(config.train, global_batch=240, epochs=4, log_every_steps=1),
        online=OnlineConfig(every_epochs, lr=0.3),
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


@pytest.mark.parametrize("order", ["shuffled", "blocks"])
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
