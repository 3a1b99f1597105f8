"""Data that make steps fail: the run goes back to its last checkpoint, on behind them, and gives up in the end."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import Tensor

from tests.vicreg.methods.small_runs import assert_same, small
from vicreg import checkpoint
from vicreg.config import PretrainConfig
from vicreg.data.batches import Batch
from vicreg.data.loaders import open_views
from vicreg.ranks.distributed import Placement
from vicreg.run_files import read_metrics
from vicreg.training.guards import TrainingDiverged
from vicreg.training.learner import Learner
from vicreg.training.train import CHECKPOINTS, Outcome, train

CPU = torch.device("cpu")


@pytest.fixture
def config(digits_folder: Path) -> PretrainConfig:
    """One epoch of 11 steps, a checkpoint after every second, at most one bad step in a row."""
    config = small("vicreg", digits_folder, max_skipped_steps=2, checkpoint_every_steps=2, keep_checkpoints=9)
    return dataclasses.replace(config, train=dataclasses.replace(config.train, global_batch=128))


def _batch(config: PretrainConfig, number: int) -> list[int]:
    """The samples of a batch of the first epoch."""
    loader = open_views(
        config.data,
        Path(config.data.train),
        config.views,
        seed=config.train.seed,
        global_batch=config.train.global_batch,
        rank=0,
        world_size=1,
        device=CPU,
        workers=1,
    )
    samples: list[int] = next(loader.batches(0, number)).samples.tolist()
    loader.close()
    return samples


@pytest.fixture
def spoil(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[list[int]], bool]], None]:
    """Let the batches for whose samples this is true have a pixel that is no number."""

    def choose(is_bad: Callable[[list[int]], bool]) -> None:
        prepare = Learner._view

        def spoilt(self: Learner, batch: Batch, view: int) -> Tensor:
            images = prepare(self, batch, view)
            if is_bad(batch.samples.tolist()):
                images[0, 0, 0, 0] = float("nan")
            return images

        monkeypatch.setattr(Learner, "_view", spoilt)

    return choose


def _train(config: PretrainConfig, run: Path, until: int = 10**6) -> Outcome:
    run.mkdir(exist_ok=True)
    return train(config, run, Placement(0, 1), lambda step: step >= until, Console(quiet=True))


Spoil = Callable[[Callable[[list[int]], bool]], None]


def test_it_goes_on_behind_the_data_that_fail(
    config: PretrainConfig, tmp_path: Path, spoil: Spoil, caplog: pytest.LogCaptureFixture
) -> None:
    bad = [_batch(config, number) for number in (3, 4)]
    spoil(lambda samples: samples in bad)
    with caplog.at_level(logging.WARNING):
        assert _train(config, tmp_path / "run") is Outcome.FINISHED
    assert "2 steps in a row had a non-finite gradient" in caplog.text
    assert "going back to the last checkpoint, and on with the data behind these" in caplog.text
    assert f"views that are not finite, or beyond all pixels: {bad[0][0]}" in caplog.text
    assert [line["step"] for line in read_metrics(tmp_path / "run")] == list(range(11))
    saved = {path.name: checkpoint.load(path) for path in checkpoint.list_checkpoints(tmp_path / "run" / CHECKPOINTS)}
    assert saved["step_00000002"]["data_offset"] == 0
    last = saved["step_00000011"]
    assert last["data_offset"] == 3  # of batches 2, 3 and 4
    assert last["skipped_steps"] == 0  # of the way that was gone
    # Stopped and resumed behind the rollback it ends in the same bits.
    assert _train(config, tmp_path / "parts", until=7) is Outcome.STOPPED
    assert _train(config, tmp_path / "parts") is Outcome.FINISHED
    again = checkpoint.load(checkpoint.list_checkpoints(tmp_path / "parts" / CHECKPOINTS)[-1])
    assert_same(again, last, "state")


def test_one_bad_step_is_left_out_and_no_more(config: PretrainConfig, tmp_path: Path, spoil: Spoil) -> None:
    bad = _batch(config, 3)
    spoil(lambda samples: samples == bad)
    assert _train(config, tmp_path / "run") is Outcome.FINISHED
    saved = [path.name for path in checkpoint.list_checkpoints(tmp_path / "run" / CHECKPOINTS)]
    assert "step_00000004" not in saved  # while steps are left out
    last = checkpoint.load(tmp_path / "run" / CHECKPOINTS / saved[-1])
    assert (last["data_offset"], last["skipped_steps"]) == (0, 1)


def test_it_gives_up_in_the_end(config: PretrainConfig, tmp_path: Path, spoil: Spoil) -> None:
    spoil(lambda samples: True)
    with pytest.raises(TrainingDiverged, match=r"2 steps in a row .* look at the samples .*gone back 2 times"):
        _train(config, tmp_path / "run")
    assert not (tmp_path / "run" / "encoder.pt").exists()
