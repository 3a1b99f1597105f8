"""Waveform and spectrogram through branches of their own: on ranks, stopped and gone on with, the same run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console

from tests import tones
from tests.ranks import run_ranks
from tests.vicreg.methods.small_runs import assert_same
from vicreg import checkpoint, methods
from vicreg.config import PretrainConfig, SoundConfig
from vicreg.cost.estimate import estimate
from vicreg.cost.flops import step_flops
from vicreg.data.channels import fitted_to_channels
from vicreg.exchange.encoder_file import load_encoder
from vicreg.ranks import distributed
from vicreg.ranks.distributed import Placement
from vicreg.run_files import encoder_path, read_metrics
from vicreg.training.train import CHECKPOINTS, Outcome, train

BATCH, NUM_STEPS, TO_THE_END = 16, 4, 10**6
METHODS = ("vicreg", "barlow_twins")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 clips to learn from: two steps an epoch."""
    return tones.write(tmp_path_factory.mktemp("tones"), 12)


def _config(folder: Path, method: str) -> PretrainConfig:
    config = methods.load("vicreg").RECIPES["tones"].pretrain
    data = replace(config.data, train=str(folder / "train.beton"), val=str(folder / "val.beton"))
    sound = SoundConfig(tones.RATE_HZ, 1_000, window_samples=128, hop_samples=64, bands=16)
    return fitted_to_channels(
        replace(
            config,
            method=methods.load(method).Config(),
            data=data,
            model=replace(config.model, expander="24-24", sound=sound),
            train=replace(config.train, epochs=2, global_batch=BATCH, precision="float64", log_every_steps=1, seed=3),
        )
    )


def _train(config: PretrainConfig, run: Path, until: int = TO_THE_END) -> Outcome:
    torch.set_num_threads(1)
    run.mkdir(exist_ok=True, parents=True)
    rank, ranks = distributed.rank(), distributed.world_size()
    place = Placement(rank, ranks, rank, ranks, cpus=1)
    return train(config, run, place, lambda step: step >= until, Console(quiet=True))


def _both(configs: dict[str, PretrainConfig], folder: Path, until: int) -> None:
    for method, config in configs.items():
        _train(config, folder / method, until)


def _state(run: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = checkpoint.load(checkpoint.list_checkpoints(run / CHECKPOINTS)[-1])["method"]
    return found


@pytest.fixture(scope="module")
def whole(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a run of each method by one process."""
    runs = tmp_path_factory.mktemp("whole")
    _both({method: _config(folder, method) for method in METHODS}, runs, TO_THE_END)
    return runs


@pytest.mark.parametrize(
    "parts", [((2, TO_THE_END),), pytest.param(((2, 3), (4, TO_THE_END)), marks=pytest.mark.slow)], ids=["2", "2, 4"]
)
def test_ranks_go_on_and_end_as_one_process_would(
    folder: Path, whole: Path, tmp_path: Path, parts: tuple[tuple[int, int], ...]
) -> None:
    configs = {method: _config(folder, method) for method in METHODS}
    _both(configs, tmp_path, 1)
    for ranks, until in parts:
        run_ranks(_both, ranks, tmp_path, configs, tmp_path, until)
    for method in METHODS:
        losses = [
            [line["loss"] for line in read_metrics(each / method) if "loss" in line] for each in (whole, tmp_path)
        ]
        assert len(losses[0]) == NUM_STEPS
        assert losses[1] == pytest.approx(losses[0], rel=1e-9)
        states = [_state(each / method) for each in (whole, tmp_path)]
        for name, tensor in states[0].items():
            torch.testing.assert_close(states[1][name], tensor, rtol=1e-6, atol=1e-8, msg=f"{method}: {name}")


@pytest.mark.parametrize("method", METHODS)
def test_a_stop_changes_no_bit_and_both_encoders_are_kept(
    folder: Path, whole: Path, tmp_path: Path, method: str
) -> None:
    config = _config(folder, method)
    assert _train(config, tmp_path / "run", until=3) is Outcome.STOPPED
    assert _train(config, tmp_path / "run") is Outcome.FINISHED
    assert_same(_state(whole / method), _state(tmp_path / "run"), method)
    sound = torch.randn(2, 1, 1_000, dtype=torch.float64)
    for name in ("", "b"):
        encoder = load_encoder(encoder_path(tmp_path / "run", name)).double()
        assert encoder(sound).shape == (2, 128)


def test_the_cost_is_that_of_both_branches(folder: Path) -> None:
    config = replace(_config(folder, "vicreg"), train=replace(_config(folder, "vicreg").train, precision="float32"))
    length, frames = 900, 1 + 900 // 64
    assert estimate(config, 1, on_gpu=False).batch_bytes == BATCH * (length + 16 * frames) * (4 + 4)
    alone = replace(config, model=replace(config.model, encoder_b=""))
    wave = replace(alone, model=replace(alone.model, encoder="resnet10-narrow-wave"))
    both = step_flops(config, BATCH)
    assert both == pytest.approx((step_flops(alone, BATCH) + step_flops(wave, BATCH)) / 2)
