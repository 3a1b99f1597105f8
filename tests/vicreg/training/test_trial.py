"""The trial of the step's forms: what it takes, on every rank alike and after a resume, and where there is none."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from rich.console import Console

from jobs.planning.recipes import recipe
from tests.ranks import run_ranks
from vicreg import checkpoint
from vicreg.config import DataConfig, ModelConfig, PretrainConfig, TrainConfig
from vicreg.method import TrainingData
from vicreg.methods import vicreg
from vicreg.ranks import distributed
from vicreg.ranks.distributed import Placement
from vicreg.training import trial
from vicreg.training.train import CHECKPOINTS, Outcome, train
from vicreg.training.trial import FILE, Trial, is_tried, with_fastest_form

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
DATA = TrainingData(64, 10)
CONFIG = PretrainConfig(
    vicreg.Config(),
    DataConfig(image_size=16, eval_resize=16),
    model=ModelConfig("resnet10-narrow", small_images=True, expander="32-32"),
    train=TrainConfig(global_batch=8),
)


def _changed(**train: Any) -> PretrainConfig:
    return dataclasses.replace(CONFIG, train=dataclasses.replace(CONFIG.train, **train))


@pytest.mark.parametrize(
    ("config", "device", "tried"),
    [
        (CONFIG, GPU, True),
        (CONFIG, CPU, False),
        (_changed(deterministic=True), GPU, False),
        (_changed(trial="off"), GPU, False),
        (_changed(compile=True), GPU, False),
        (_changed(joint_views=True), GPU, False),
    ],
)
def test_nothing_is_tried_where_bits_are_promised_or_a_form_is_given(
    config: PretrainConfig, device: torch.device, tried: bool, tmp_path: Path
) -> None:
    assert is_tried(config, device) == tried
    if not tried:
        assert with_fastest_form(config, tmp_path, device, DATA, 10) is config
        assert not list(tmp_path.iterdir())


def test_a_short_run_is_not_compiled_and_forms_that_cannot_be_are_left_out() -> None:
    torch.set_num_threads(1)
    assert list(Trial(CONFIG, CPU, DATA, 10).step_ms()) == ["eager", "all views at once"]
    assert list(Trial(_changed(micro_batch=4), CPU, DATA, 10).step_ms()) == ["eager"]


def test_a_long_run_is_tried_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    times = {(False, False): 0.4, (False, True): 0.5, (True, False): 0.2, (True, True): 0.3}
    monkeypatch.setattr(Trial, "_measure", lambda self, config: times[config.train.compile, config.train.joint_views])
    assert list(Trial(CONFIG, CPU, DATA, 1499).step_ms()) == ["eager", "all views at once"]
    found = Trial(CONFIG, CPU, DATA, 1501).step_ms()
    assert list(found) == ["eager", "all views at once", "compiled"]  # 300 s are left of the third
    assert Trial(CONFIG, CPU, DATA, 10**6).step_ms() == {name: 1000 * times[form] for name, form in trial.FORMS.items()}


def _chosen(run: Path) -> tuple[bool, bool, int]:
    """What is taken by ranks of which each finds another form to be the fastest, and how many trials there were."""
    fast, trials = distributed.rank(), 0

    def measure(self: Trial, config: PretrainConfig) -> float:
        nonlocal trials
        trials += 1
        return 0.1 if config.train.joint_views == bool(fast) else 0.3 if fast else 0.2

    with patch.object(trial, "is_tried", lambda config, device: True), patch.object(Trial, "_measure", measure):
        found = with_fastest_form(CONFIG, run, CPU, DATA, 10)
    all_ranks = distributed.gather_rows(torch.tensor([[found.train.compile, found.train.joint_views]]))
    assert all(torch.equal(row, all_ranks[0]) for row in all_ranks)
    return found.train.compile, found.train.joint_views, trials


def test_all_ranks_take_what_is_fastest_for_the_slowest_of_them_and_go_on_with_it(tmp_path: Path) -> None:
    """Rank 0: 0.2 s in the second form and 0.1 s in the first, rank 1: 0.3 s in the first and 0.1 s in the second."""
    assert run_ranks(_chosen, 2, tmp_path, tmp_path) == (False, True, 2)
    kept = json.loads((tmp_path / FILE).read_text())
    assert kept["step_ms"] == {"eager": 300.0, "all views at once": 200.0}
    assert run_ranks(_chosen, 2, tmp_path, tmp_path) == (False, True, 0)
    (tmp_path / FILE).write_text(json.dumps(kept | {"of": kept["of"] | {"device": "another"}}))
    assert run_ranks(_chosen, 2, tmp_path, tmp_path) == (False, True, 2)
    (tmp_path / FILE).write_text("{")
    assert run_ranks(_chosen, 2, tmp_path, tmp_path) == (False, True, 2)


def test_a_run_goes_on_with_what_it_began_with(
    digits_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed and resumed, with a trial that would now find the opposite: the same bits as a run that was not."""
    torch.set_num_threads(1)
    data = DataConfig(
        str(digits_folder / "train.beton"), str(digits_folder / "val.beton"), image_size=16, eval_resize=16
    )
    config = dataclasses.replace(
        recipe("digits").pretrain,
        data=data,
        model=CONFIG.model,
        train=TrainConfig(epochs=1, global_batch=240, checkpoint_every_steps=1),
    )
    monkeypatch.setattr(trial, "is_tried", lambda config, device: True)

    def run(folder: Path, fast: bool, last_step: int = 0) -> dict[str, torch.Tensor]:
        folder.mkdir(exist_ok=True)
        monkeypatch.setattr(Trial, "_measure", lambda self, config: 0.1 if config.train.joint_views == fast else 0.2)
        stop = lambda step: step == last_step  # noqa: E731
        outcome = train(config, folder, Placement(0, 1, 0, 1), stop, Console(file=io.StringIO()))
        assert outcome == (Outcome.STOPPED if last_step else Outcome.FINISHED)
        state = checkpoint.load_newest(folder / CHECKPOINTS)
        assert state is not None
        found: dict[str, torch.Tensor] = state["method"]
        return found

    whole = run(tmp_path / "whole", fast=True)
    run(tmp_path / "parts", fast=True, last_step=2)
    parts = run(tmp_path / "parts", fast=False)
    for name, value in whole.items():
        assert torch.equal(value, parts[name]), name
