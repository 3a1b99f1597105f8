"""Evaluations that train, as jobs: how far they are, a signal on the way, and what they go on from."""

from __future__ import annotations

import logging
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jobs import eval_all
from jobs.execution.eval_all import TOGETHER
from jobs.planning import recipes
from jobs.planning.cli import INTERRUPTED_EXIT_CODE
from jobs.planning.measurement import PERCENT
from jobs.planning.recipes import Evaluation
from slurm.attempts import Pulse, read_heartbeat
from tests.jobs.run_folders import digits_config, write_run
from vicreg.evals import results
from vicreg.evals.results import PIXELS, RANDOM, TRAINED
from vicreg.evals.work import STATE_FOLDER

SHORT = {"epochs": 2, "batch": 480, "lr": 0.1, "hflip_p": 0.0}  # 2 epochs of 2 steps
EVALUATIONS = (
    Evaluation("linear", "linear", {**SHORT, "grid_lrs": [1.0]}, (RANDOM, PIXELS)),
    Evaluation("knn", "knn", {}, (PIXELS,)),
)
NUM_PIECES = 5


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    handlers = list(logging.root.handlers)
    yield
    logging.root.handlers[:] = handlers


@pytest.fixture(autouse=True)
def _few_evaluations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipes, "evaluations", lambda name: EVALUATIONS)


@pytest.fixture
def beats(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What the job said of its progress, in order, however fast it followed."""
    said: list[int] = []
    original = Pulse.beat

    def beat(pulse: Pulse, progress: int, at_once: bool = False) -> None:
        said.append(progress)
        original(pulse, progress, at_once)

    monkeypatch.setattr(Pulse, "beat", beat)
    return said


def _numbers(run: Path, subject: str) -> tuple[dict[str, float], dict[str, Any]]:
    result = results.read(run, "linear", subject)
    assert result
    return result.metrics, result.details


def test_progress_goes_on_where_the_attempt_before_was(digits_folder: Path, tmp_path: Path, beats: list[int]) -> None:
    run = tmp_path / "run"
    write_run(run, digits_config(digits_folder), "digits")
    assert eval_all.main([str(run)]) == 0
    assert beats == sorted(beats)
    assert beats[:5] == [25, 50, 75, 100, 100]  # the steps of the first evaluation, then its result
    heartbeat = read_heartbeat(run / "jobs" / TOGETHER)
    assert heartbeat
    assert (heartbeat.progress, heartbeat.total) == (PERCENT * NUM_PIECES, PERCENT * NUM_PIECES)
    beats.clear()
    shutil.rmtree(results.folder(run, "linear", RANDOM))
    assert eval_all.main([str(run)]) == 0
    assert beats == [225, 250, 275, 300, 300]  # of the three subjects that this evaluation has, two were done


def test_a_stopped_evaluation_goes_on_even_if_the_data_were_moved(
    digits_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, stopped, moved = tmp_path / "whole", tmp_path / "stopped", tmp_path / "moved"
    for run in (whole, stopped):
        write_run(run, digits_config(digits_folder), "digits")
    assert eval_all.main([str(whole), "--evals", "linear"]) == 0
    original = Pulse.beat

    def beat(pulse: Pulse, progress: int, at_once: bool = False) -> None:
        original(pulse, progress, at_once)
        if progress == PERCENT + 75:  # the third of four steps of the second subject
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Pulse, "beat", beat)
        assert eval_all.main([str(stopped), "--evals", "linear"]) == INTERRUPTED_EXIT_CODE
    assert "stopped at step 3 and saved" in capsys.readouterr().out
    assert results.read(stopped, "linear", TRAINED)
    assert not results.read(stopped, "linear", RANDOM)
    shutil.copytree(digits_folder, moved)
    write_run(stopped, digits_config(moved), "digits")
    assert eval_all.main([str(stopped), "--evals", "linear"]) == 0
    said = capsys.readouterr().out
    assert "linear, trained: done, skipped" in said
    assert "going on at step 3" in said
    for subject in (TRAINED, RANDOM, PIXELS):
        assert _numbers(stopped, subject) == _numbers(whole, subject)
        assert not (results.folder(stopped, "linear", subject) / STATE_FOLDER).exists()


def test_a_state_of_other_settings_is_not_gone_on_from(
    digits_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    write_run(run, digits_config(digits_folder), "digits")

    def beat(pulse: Pulse, progress: int, at_once: bool = False) -> None:
        signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Pulse, "beat", beat)
        assert eval_all.main([str(run), "--evals", "linear"]) == INTERRUPTED_EXIT_CODE
    other = (Evaluation("linear", "linear", {**SHORT, "lr": 0.2}),)
    monkeypatch.setattr(recipes, "evaluations", lambda name: other)
    assert eval_all.main([str(run), "--evals", "linear"]) == 0
    assert "holds the state of other settings, data or weights: begun anew" in " ".join(capsys.readouterr().out.split())
