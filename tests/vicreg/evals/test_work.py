"""States of evaluations: whose they are, what happens to damaged ones, ranks that stop and go on together."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.ranks import run_ranks
from vicreg.config import DataConfig, ModelConfig
from vicreg.evals import linear, semisup, work
from vicreg.evals.features import Pixels, open_splits
from vicreg.evals.results import Measured
from vicreg.evals.work import STATE_FOLDER, Stopped, Work
from vicreg.exchange.encoder_file import untrained_encoder
from vicreg.ranks import distributed

CPU = torch.device("cpu")
BELONGS = {"settings": {"lr": 0.1, "milestones": [1, 2]}, "encoder": "abc"}


def _saved(folder: Path, *steps: int) -> None:
    for step in steps:
        Work(folder, BELONGS).save(step, {"values": torch.full((3,), step)})


def _found(folder: Path, belongs_to: dict[str, Any] = BELONGS) -> list[int] | None:
    state = Work(folder, belongs_to).load()
    return state["values"].tolist() if state else None


def test_the_newest_state_is_found_and_a_damaged_one_passed_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert _found(tmp_path) is None
    _saved(tmp_path, 3, 8, 12)
    assert _found(tmp_path) == [12, 12, 12]
    states = sorted((tmp_path / STATE_FOLDER).iterdir())
    assert len(states) == 2
    (states[-1] / "state.pt").write_bytes(b"cut off")
    assert _found(tmp_path) == [8, 8, 8]
    assert "falling back" in caplog.text


@pytest.mark.parametrize("changed", [{"settings": {"lr": 0.2, "milestones": [1, 2]}}, {"encoder": "abd"}])
def test_the_state_of_something_else_is_ignored_and_said(
    changed: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _saved(tmp_path, 3)
    with caplog.at_level("INFO"):
        assert _found(tmp_path, BELONGS | changed) is None
    assert f"{tmp_path} holds the state of other settings, data or weights: begun anew" in caplog.text
    assert _found(tmp_path) == [3, 3, 3]


def test_without_a_folder_nothing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    kept = Work()
    kept.save(1, {})
    assert kept.load() is None
    kept.forget()
    with pytest.raises(Stopped):
        Work(should_stop=lambda: True).leave_if_asked(1, dict)
    assert not list(tmp_path.iterdir())


def test_a_state_is_saved_only_when_time_has_passed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Work(tmp_path, BELONGS)
    kept.save_if_due(1, lambda: {"values": torch.ones(1)})
    assert _found(tmp_path) is None
    monkeypatch.setattr(work, "SAVE_EVERY_S", 0.0)
    kept.save_if_due(2, lambda: {"values": torch.ones(1)})
    assert _found(tmp_path) == [1]
    kept.forget()
    assert not list(tmp_path.iterdir())


LINEAR = linear.Config(epochs=3, batch=36, lr=0.02, grid_lrs=(0.3,), batch_norm=True, hflip_p=0.0)
SEMISUP = semisup.Config(subset="", fraction=0.3, batch=12, epochs=3, lr_encoder=0.01, lr_head=0.1, hflip_p=0.0)
STOPPED_AT = 5


def _evaluate(name: str, data: DataConfig, state: Work) -> Measured:
    splits = open_splits(data, CPU, 1)
    if name == "linear":
        return linear.evaluate(Pixels(8), splits, LINEAR, state)
    return semisup.evaluate(untrained_encoder(ModelConfig("resnet10-narrow"), 0), splits, SEMISUP, state)


def stop(name: str, data: DataConfig, folder: Path) -> str:
    """The last rank alone is asked to stop; all of them leave."""
    asked = itertools.count(1)
    is_last = distributed.rank() == distributed.world_size() - 1
    try:
        _evaluate(name, data, Work(folder, BELONGS, lambda: is_last and next(asked) >= STOPPED_AT))
    except Stopped as stopped:
        return str(stopped)
    return "finished"


def go_on(name: str, data: DataConfig, folder: Path | None) -> Measured:
    """From the state in the folder to the end."""
    return _evaluate(name, data, Work(folder, BELONGS))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["linear", "semisup"])
def test_ranks_stop_together_and_other_numbers_of_ranks_go_on(
    name: str, meaningless: DataConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.set_num_threads(1)
    whole = go_on(name, meaningless, None)
    assert run_ranks(stop, 3, tmp_path, name, meaningless, tmp_path / "state") == f"stopped at step {STOPPED_AT}"
    with caplog.at_level("INFO"):
        alone = go_on(name, meaningless, tmp_path / "state")
    assert f"going on at step {STOPPED_AT}" in caplog.text
    assert alone.metrics == whole.metrics
    assert run_ranks(go_on, 2, tmp_path, name, meaningless, tmp_path / "state").metrics == whole.metrics


def test_nothing_is_saved_in_a_folder_that_is_another_attempt_s(tmp_path: Path) -> None:
    def superseded() -> None:
        raise RuntimeError("taken over")

    work = Work(tmp_path, require_owner=superseded)
    with pytest.raises(RuntimeError, match="taken over"):
        work.save(3, {})
    assert not list(tmp_path.rglob("step_*"))
