"""Steps on a data set that lies on the device: the same bits as when the host draws and plans, also through a stop.

On a CPU nothing is recorded, but everything else of such a step runs as it does on a GPU.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor

from tests.vicreg.methods.small_runs import assert_same, small
from vicreg import checkpoint
from vicreg.config import OnlineConfig, PretrainConfig, ViewConfig
from vicreg.data import array_views
from vicreg.data.device_images import Chosen
from vicreg.data.loaders import open_views
from vicreg.method import Progress
from vicreg.ranks.distributed import Placement
from vicreg.training.captured_step import CapturedStep, reason_against
from vicreg.training.train import CHECKPOINTS, Outcome, train

CPU = torch.device("cpu")
VIEW = ViewConfig(crop_scale=(0.3, 1.0), blur_p=0.5, solarize_p=0.3, hue=0.3, grayscale_p=0.3)


@pytest.fixture
def config(digits_folder: Path) -> PretrainConfig:
    """Two epochs of four steps on 360 digits, every kind of colour change, and an online head."""
    plain = small("vicreg", digits_folder)
    return dataclasses.replace(
        plain,
        data=dataclasses.replace(plain.data, loader="array", train=plain.data.val),
        views=(VIEW, dataclasses.replace(VIEW, blur_p=0.0)),
        train=dataclasses.replace(plain.train, global_batch=90, epochs=2),
        online=OnlineConfig(every_epochs=9),
    )


@pytest.fixture(autouse=True)
def _as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(array_views, "crops_in_threads", lambda device: False)


def _trained(config: PretrainConfig, run: Path, stop_after: int = 0) -> dict[str, Any]:
    """The last checkpoint."""
    run.mkdir(exist_ok=True)
    ends = train(config, run, Placement(), lambda step: step == stop_after, Console(quiet=True))
    assert ends == (Outcome.STOPPED if stop_after else Outcome.FINISHED)
    state, _ = checkpoint.find_newest(run / CHECKPOINTS)
    assert state
    return state


def test_a_run_has_the_same_bits_through_a_stop_too(
    config: PretrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = _trained(config, tmp_path / "mine")
    _trained(config, tmp_path / "stopped", stop_after=5)
    again = _trained(config, tmp_path / "stopped")
    monkeypatch.setattr(array_views, "reason_against", lambda view: "the host is to draw")
    theirs = _trained(config, tmp_path / "theirs")
    assert (theirs["step"], theirs["skipped_steps"]) == (8, 0)
    for state in (mine, again):
        for part in ("method", "optimizer", "online", "step"):
            assert_same(state[part], theirs[part], part)


def test_where_steps_are_not_recorded_it_is_said_why(config: PretrainConfig) -> None:
    def reason(changed: PretrainConfig, method: str = "vicreg") -> str:
        loader = _loader(changed)
        method_of_it = SimpleNamespace(follows_progress=method == "byol")
        learner: Any = SimpleNamespace(config=changed, method=method_of_it, dtype=torch.float32)  # all it asks for
        try:
            return reason_against(learner, loader)
        finally:
            loader.close()

    def with_train(**settings: Any) -> PretrainConfig:
        return dataclasses.replace(config, train=dataclasses.replace(config.train, **settings))

    turned = dataclasses.replace(VIEW, rotation_deg=9.0)
    assert reason(config) == ""
    assert "capture" in reason(with_train(capture="off"))
    assert "micro_batch" in reason(with_train(micro_batch=8))
    assert "step to step" in reason(config, "byol")
    assert "rotations" in reason(dataclasses.replace(config, views=(turned, VIEW)))
    assert "decodes" in reason(dataclasses.replace(config, data=dataclasses.replace(config.data, loader="beton")))


def _loader(config: PretrainConfig) -> Any:
    return open_views(
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


class _Recorder:
    """In the place of CUDA: what is recorded, and what is replayed."""

    def __init__(self, fails: bool) -> None:
        self.fails = fails
        self.told: list[str] = []

    def replay(self) -> None:
        self.told.append("replay")

    @contextlib.contextmanager
    def graph(self, graph: object, capture_error_mode: str) -> Iterator[None]:
        assert graph is self
        assert capture_error_mode == "thread_local"  # threads that write checkpoints go on
        self.told.append("record")
        yield
        if self.fails:
            raise RuntimeError("operation not permitted when stream is capturing")

    def wait_stream(self, other: object) -> None:
        assert other is self


class _Counting:
    """In the place of a learner."""

    device = CPU

    def __init__(self, told: list[str]) -> None:
        self.told = told
        self.prepared: list[int] = []
        self.capturable = False

    def prepare(self, progress: Progress, rank: int) -> None:
        self.prepared.append(progress.step)

    def take(self, batch: Any, progress: Progress) -> dict[str, Tensor]:
        self.told.append(f"take {batch[0].tolist()} {int(batch[1])}")
        return {"loss": torch.ones(())}

    def let_optimizers_be_recorded(self, recorded: bool) -> None:
        self.capturable = recorded

    def forget_half_a_step(self) -> None:
        self.told.append("forget")


@pytest.mark.parametrize("fails", [False, True])
def test_three_steps_are_taken_then_one_is_recorded_for_all(
    fails: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    recorder = _Recorder(fails)
    for name, stands_in in {
        "CUDAGraph": lambda: recorder,
        "graph": recorder.graph,
        "Stream": lambda device: recorder,
        "current_stream": lambda device: recorder,
        "stream": lambda stream: contextlib.nullcontext(),
    }.items():
        monkeypatch.setattr(torch.cuda, name, stands_in)
    learner: Any = _Counting(recorder.told)
    steps = CapturedStep(learner)
    steps._unrecorded = 3  # as on a GPU
    source: Any = SimpleNamespace(batch=lambda samples, epoch: (samples.clone(), epoch.clone()))
    with caplog.at_level(logging.INFO):
        for step in range(6):
            samples = torch.tensor([step, step + 1])
            terms = steps.step(Chosen(source, samples, samples, 40 + step), Progress(step, 9, 3), 0)
            assert terms["loss"] == 1
    taken = [f"take [{step}, {step + 1}] {40 + step}" for step in range(6)]
    recorded = ["record", taken[3]]
    if fails:
        assert recorder.told == [*taken[:3], *recorded, "forget", *taken[3:]]
        assert "not permitted" in caplog.text
    else:
        assert recorder.told == [*taken[:3], *recorded, *["replay"] * 3]
        assert "from step 3 on" in caplog.text
        assert steps._samples is not None
        assert [*steps._samples.tolist(), int(steps._epoch)] == [5, 6, 45]
    assert learner.prepared == list(range(6))
    assert learner.capturable != fails
