"""When a checkpoint is due: by step, by time, at the end; never twice for one step, never on other ranks."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from vicreg import checkpoint, train
from vicreg.config import PretrainConfig


def _saver(run: Path, every_steps: int, leads: bool = True) -> Any:
    config = PretrainConfig()
    settings = dataclasses.replace(config.train, checkpoint_every_steps=every_steps, keep_checkpoints=100)
    learner: Any = SimpleNamespace(state=lambda: {"weights": 1})
    return train._Saver(run, learner, dataclasses.replace(config, train=settings), steps_per_epoch=5, leads=leads)


def _saved(run: Path) -> list[int]:
    return [int(path.name.removeprefix("step_")) for path in checkpoint.list_checkpoints(run / train.CHECKPOINTS)]


def test_by_epoch_unless_steps_are_given(tmp_path: Path) -> None:
    for name, every, expected in (("epoch", 0, [5, 10]), ("steps", 3, [3, 6, 9])):
        saver = _saver(tmp_path / name, every)
        for step in range(1, 12):
            saver.save_if_due(step)
        assert _saved(tmp_path / name) == expected


def test_by_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(train.time, "monotonic", lambda: now[0])
    saver = _saver(tmp_path, 1000)
    for step in range(1, 100):
        now[0] += 60.0  # a minute per step; due after 20 minutes
        saver.save_if_due(step)
    assert _saved(tmp_path) == [20, 40, 60, 80]


def test_the_end_is_saved_once_and_only_on_rank_0(tmp_path: Path) -> None:
    saver = _saver(tmp_path / "leads", 3)
    saver.save_if_due(6)
    written = checkpoint.list_checkpoints(tmp_path / "leads" / train.CHECKPOINTS)[0].stat().st_mtime_ns
    saver.save(6)
    assert checkpoint.list_checkpoints(tmp_path / "leads" / train.CHECKPOINTS)[0].stat().st_mtime_ns == written
    _saver(tmp_path / "other", 3, leads=False).save(6)
    assert _saved(tmp_path / "other") == []
