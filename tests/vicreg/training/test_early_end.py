"""A run ends at the epoch of its rule on all ranks alike, killed or not, and its best checkpoint stays."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from tests.ranks import run_ranks
from tests.vicreg.training.test_online_head import _config
from vicreg import checkpoint
from vicreg.config import OnlineConfig, PretrainConfig
from vicreg.exchange.encoder_file import load_encoder
from vicreg.ranks import distributed
from vicreg.ranks.distributed import Placement
from vicreg.run_files import read_metrics
from vicreg.stop_rule import StopRule, early_end_of
from vicreg.training.train import CHECKPOINTS, Outcome, train

STEPS_PER_EPOCH = 1437 // 480


def _with(digits: Path, **online: Any) -> PretrainConfig:
    """Of four epochs of three steps, measured after each."""
    config = _config(digits, 1)
    shorter = dataclasses.replace(config.train, global_batch=480, epochs=4, keep_checkpoints=1)
    return dataclasses.replace(config, online=OnlineConfig(1, lr=0.3, neighbours=0, **online), train=shorter)


def _train(config: PretrainConfig, run: Path, last_step: int = 0) -> Outcome:
    torch.set_num_threads(1)
    run.mkdir(exist_ok=True)
    ranks = distributed.world_size()
    placement = Placement(distributed.rank(), ranks, distributed.rank(), ranks)
    return train(config, run, placement, lambda step: step == last_step, Console(file=io.StringIO()))


def _steps(run: Path) -> list[int]:
    return [int(path.name.removeprefix("step_")) for path in checkpoint.list_checkpoints(run / CHECKPOINTS)]


def test_the_run_ends_after_the_epoch_of_its_rule_and_says_why(digits_folder: Path, tmp_path: Path) -> None:
    config = _with(digits_folder, stop_if="online_top1>100@1,online_top1<100@2")
    assert _train(config, tmp_path / "run") is Outcome.FINISHED
    lines = read_metrics(tmp_path / "run")
    assert lines[-1]["step"] == 2 * STEPS_PER_EPOCH - 1
    value = lines[-1]["online_top1"]
    assert early_end_of(tmp_path / "run") == StopRule("online_top1", "<", 100.0, 2).said_of({"online_top1": value})
    assert (tmp_path / "run" / "encoder.pt").is_file()
    assert early_end_of(tmp_path) == ""


def test_a_run_that_is_killed_before_its_end_is_written_decides_the_same(digits_folder: Path, tmp_path: Path) -> None:
    config = _with(digits_folder, stop_if="online_top1<100@1")
    for name, last_step in (("whole", 0), ("stopped", STEPS_PER_EPOCH - 1)):
        if last_step:
            assert _train(config, tmp_path / name, last_step) is Outcome.STOPPED
        assert _train(config, tmp_path / name) is Outcome.FINISHED
    killed = tmp_path / "killed"  # as it is when the checkpoint of that step is on disk, and nothing that follows it
    _train(_with(digits_folder), killed, STEPS_PER_EPOCH)
    assert _train(config, killed) is Outcome.FINISHED
    whole = load_encoder(tmp_path / "whole" / "encoder.pt").state_dict()
    for name in ("stopped", "killed"):
        assert read_metrics(tmp_path / name)[-1]["step"] == STEPS_PER_EPOCH - 1
        assert early_end_of(tmp_path / name) == early_end_of(tmp_path / "whole")
        again = load_encoder(tmp_path / name / "encoder.pt").state_dict()
        assert all(torch.equal(value, again[key]) for key, value in whole.items())


def test_the_best_checkpoint_stays_beside_the_newest(digits_folder: Path, tmp_path: Path) -> None:
    config = _with(digits_folder, keep_best="online_top1")
    for name, last_step in (("whole", 0), ("parts", 2 * STEPS_PER_EPOCH)):
        if last_step:
            _train(config, tmp_path / name, last_step)
        _train(config, tmp_path / name)
        measured = {
            line["step"] + 1: line["online_top1"] for line in read_metrics(tmp_path / name) if "online_top1" in line
        }
        best = max(measured, key=lambda step: (measured[step], -step))
        path, value = checkpoint.find_best(tmp_path / name / CHECKPOINTS, "online_top1")
        assert path is not None
        assert (path.name, value) == (f"step_{best:08d}", measured[best])
        assert set(_steps(tmp_path / name)) == {best, 4 * STEPS_PER_EPOCH}


def _ends_early(digits: Path, run: Path) -> torch.Tensor:
    outcome = _train(_with(digits, stop_if="online_top1<100@1"), run)
    return torch.tensor([outcome is Outcome.FINISHED, len(read_metrics(run))])


def test_all_ranks_leave_together(digits_folder: Path, tmp_path: Path) -> None:
    ended = run_ranks(_ends_early, 2, tmp_path, digits_folder, tmp_path / "run")
    assert ended.tolist() == [1, STEPS_PER_EPOCH]
