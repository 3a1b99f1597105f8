"""What a step that is left out does to the statistics of batch norm, on all ranks: nothing."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.ranks import run_ranks
from vicreg.config import DataConfig, ModelConfig, OptimizerConfig, PretrainConfig, TrainConfig
from vicreg.method import Inputs, Progress
from vicreg.methods import vicreg
from vicreg.ranks import distributed
from vicreg.training.learner import Learner
from vicreg.training.running_statistics import RunningStatistics

CONFIG = PretrainConfig(
    vicreg.Config(),
    DataConfig(image_size=32, eval_resize=32),
    model=ModelConfig("resnet10-narrow", True, "16-16"),
    optimizer=OptimizerConfig(base_lr=0.5),
    train=TrainConfig(global_batch=16),
)


def test_they_are_the_modules_own_and_come_back() -> None:
    network = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 2), nn.BatchNorm1d(2, affine=False), nn.ReLU())
    before = copy.deepcopy(network.state_dict())
    statistics = RunningStatistics(network)
    assert [(name, t.shape) for name, t in network.state_dict().items()] == [(n, t.shape) for n, t in before.items()]
    for taken in (False, True):
        statistics.remember()
        network(torch.randn(5, 3))
        statistics.keep_if(torch.tensor(taken))
        same = [torch.equal(network.state_dict()[n], t) for n, t in before.items() if "running" in n or "num" in n]
        assert all(same) == (not taken)
    assert int(network[0].num_batches_tracked) == 1
    network.load_state_dict(before)
    assert int(network[0].num_batches_tracked) == 0


def test_a_network_without_batch_norm_has_none() -> None:
    statistics = RunningStatistics(nn.Linear(2, 2))
    statistics.remember()
    statistics.keep_if(torch.tensor(False))
    assert statistics.floating() == []


def _learn_with_a_bad_pixel(value: float) -> tuple[int, dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Steps 0 to 3 on this rank; at step 2 one pixel of one view of the last rank's is bad."""
    learner = Learner.build(CONFIG, torch.device("cpu"))
    labels = torch.zeros(16 // distributed.world_size(), dtype=torch.int64)
    generator = torch.Generator().manual_seed(distributed.rank())
    kept = {}
    for step in range(4):
        views = [torch.randn(len(labels), 3, 32, 32, generator=generator) for _ in range(2)]
        if step == 2:
            kept = copy.deepcopy(learner.method.state_dict())
            if distributed.rank() == distributed.world_size() - 1:
                views[1][0, 0, 3, 3] = value
        learner.learn(Inputs(views, labels, labels), Progress(step, 10, 5))
        if step == 2:
            assert all(torch.equal(t, kept[name]) for name, t in learner.method.state_dict().items())
    return learner.guard.skipped, kept, learner.method.state_dict()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_on_two_ranks_a_bad_pixel_of_one_changes_nothing_on_both(tmp_path: Path, value: float) -> None:
    skipped, before, after = run_ranks(_learn_with_a_bad_pixel, 2, tmp_path, value)
    assert skipped == 1
    assert all(tensor.isfinite().all() for tensor in after.values())
    assert not torch.equal(before["encoder.bn1.running_mean"], after["encoder.bn1.running_mean"])
