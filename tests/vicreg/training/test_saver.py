"""Checkpoints: when they are due, and that what is written meanwhile is what was copied."""

from __future__ import annotations

import dataclasses
import errno
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from disk import whole_files
from tests.vicreg.photos import ROOT
from vicreg import checkpoint
from vicreg.config import PretrainConfig
from vicreg.methods import vicreg
from vicreg.training import saver as saver_module
from vicreg.training import train
from vicreg.training.guards import TrainingDiverged
from vicreg.training.saver import Saver


def _saver(run: Path, every_steps: int, leads: bool = True, weights: Tensor | None = None, in_a_row: int = 0) -> Saver:
    config = PretrainConfig(vicreg.Config())
    settings = dataclasses.replace(config.train, checkpoint_every_steps=every_steps, keep_checkpoints=100)
    state = {"weights": torch.zeros(3) if weights is None else weights, "momenta": [{"step": 7}]}
    learner: Any = SimpleNamespace(
        state=lambda: state, device=torch.device("cpu"), guard=SimpleNamespace(in_a_row=in_a_row)
    )
    changed = dataclasses.replace(config, train=settings)
    return Saver(run / train.CHECKPOINTS, learner, changed, steps_per_epoch=5, leads=leads)


def _saved(run: Path) -> list[int]:
    return [int(path.name.removeprefix("step_")) for path in checkpoint.list_checkpoints(run / train.CHECKPOINTS)]


def test_by_epoch_unless_steps_are_given(tmp_path: Path) -> None:
    for name, every, expected in (("epoch", 0, [5, 10]), ("steps", 3, [3, 6, 9])):
        saver = _saver(tmp_path / name, every)
        for step in range(1, 12):
            saver.save_if_due(step)
        saver.wait()
        assert _saved(tmp_path / name) == expected


def test_by_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(saver_module.time, "monotonic", lambda: now[0])
    saver = _saver(tmp_path, 1000)
    for step in range(1, 100):
        now[0] += 60.0  # a minute per step; due after 20 minutes
        saver.save_if_due(step)
    saver.wait()
    assert _saved(tmp_path) == [20, 40, 60, 80]


def test_the_end_is_saved_once_and_only_on_rank_0(tmp_path: Path) -> None:
    saver = _saver(tmp_path / "leads", 3)
    saver.save_if_due(6)
    saver.wait()
    written = checkpoint.list_checkpoints(tmp_path / "leads" / train.CHECKPOINTS)[0].stat().st_mtime_ns
    saver.finish(6)
    assert checkpoint.list_checkpoints(tmp_path / "leads" / train.CHECKPOINTS)[0].stat().st_mtime_ns == written
    saver.finish(7)
    assert _saved(tmp_path / "leads") == [6, 7]
    _saver(tmp_path / "other", 3, leads=False).finish(6)
    assert _saved(tmp_path / "other") == []


@pytest.fixture
def slow_disk(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Nothing gets to the disk before this is set."""
    may_write, flush = threading.Event(), whole_files._flush

    def wait_and_flush(path: Path) -> None:
        assert may_write.wait(30)
        flush(path)

    monkeypatch.setattr(whole_files, "_flush", wait_and_flush)
    return may_write


def test_what_is_written_is_the_state_that_was_copied(tmp_path: Path, slow_disk: threading.Event) -> None:
    weights = torch.arange(6.0).view(2, 3).t()  # not in the order of memory
    saver = _saver(tmp_path, 1, weights=weights)
    saver.save_if_due(1)
    expected = weights.clone()
    weights.mul_(-1)  # training has gone on, and nothing is on disk yet
    assert _saved(tmp_path) == []
    slow_disk.set()
    saver.save_if_due(2)  # waits for the first, and copies into the same buffers
    saver.wait()
    first, second = (checkpoint.load(path) for path in checkpoint.list_checkpoints(tmp_path / train.CHECKPOINTS))
    assert torch.equal(first["weights"], expected)
    assert torch.equal(second["weights"], -expected)
    assert first["weights"].stride() == weights.stride()
    assert first["momenta"] == [{"step": 7}]
    assert (first["step"], second["step"]) == (1, 2)


def test_a_failed_write_is_told_at_the_next_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saver = _saver(tmp_path, 1)
    saver.finish(1)

    def full(path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(whole_files, "_flush", full)
    saver.save_if_due(2)
    saver.wait()
    for told in (saver.save_if_due, saver.finish):
        with pytest.raises(OSError, match=r"checkpoint of step 2 could not be written to .*No space left.*make room"):
            told(3)
    assert _saved(tmp_path) == [1]
    state = checkpoint.load_newest(tmp_path / train.CHECKPOINTS)
    assert state is not None
    assert state["step"] == 1


@pytest.mark.parametrize("failure", [RuntimeError("unexpected pos 64 vs 0"), OSError("broken"), MemoryError()])
def test_any_failure_of_a_save_ends_the_run_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    """torch raises RuntimeError where a file may not grow (`ulimit -f`)."""
    saver = _saver(tmp_path, 1)

    def fail(*_: object) -> None:
        raise failure

    monkeypatch.setattr(checkpoint.torch, "save", fail)
    saver.save_if_due(1)
    saver.wait()
    with pytest.raises(OSError, match="checkpoint of step 1 could not be written"):
        saver.save_if_due(2)
    assert not list((tmp_path / train.CHECKPOINTS).iterdir())


def test_what_is_not_finite_is_not_saved(tmp_path: Path) -> None:
    saver = _saver(tmp_path, 1, weights=torch.tensor([1.0, float("nan")]))
    with pytest.raises(TrainingDiverged, match="step 3: weights has values that are not finite"):
        saver.finish(3)
    assert _saved(tmp_path) == []


def test_no_checkpoint_is_taken_while_steps_are_left_out(tmp_path: Path) -> None:
    saver = _saver(tmp_path, 1, in_a_row=2)
    saver.save_if_due(1)
    assert _saved(tmp_path) == []
    saver.finish(1)  # a stop keeps the weights of the last step that was taken, and the count
    assert _saved(tmp_path) == [1]


def test_a_kill_while_writing_leaves_the_checkpoint_before(tmp_path: Path) -> None:
    """SIGKILL in the middle of the thread's write, then a saver that goes on."""
    script = """
import os, signal, sys, threading
from pathlib import Path
from disk import whole_files
from tests.vicreg.training.test_saver import _saver
run = Path(sys.argv[1])
saver = _saver(run, 1)
saver.finish(1)
begun = threading.Event()
whole_files._flush = lambda path: (begun.set(), threading.Event().wait())
saver.save_if_due(2)
begun.wait()
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    assert _saved(tmp_path) == [1]
    (stale,) = (tmp_path / train.CHECKPOINTS).glob(".step_*")
    state = checkpoint.load_newest(tmp_path / train.CHECKPOINTS)
    assert state is not None
    assert state["step"] == 1
    _saver(tmp_path, 1).finish(2)
    assert not stale.exists()
    assert _saved(tmp_path) == [1, 2]
