"""What an earlier version of this suite has written is read: a run folder of commit b4f5da7, cut small.

Its weights were rounded and its momenta thinned so that the file packs well; what the version of then made of it in
the next steps is in expected.json.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from jobs.planning.run_folder import read_run
from jobs.planning.subjects import build_encoder
from vicreg import checkpoint, methods
from vicreg.config import OnlineConfig, PretrainConfig
from vicreg.exchange.encoder_file import load_encoder
from vicreg.exchange.foreign_checkpoints import read
from vicreg.methods import vicreg
from vicreg.ranks.distributed import Placement
from vicreg.run_files import read_metrics
from vicreg.schema import SCHEMA, upgraded
from vicreg.training.train import Outcome, train

ARCHIVE = Path(__file__).parents[1] / "golden" / "run_before_methods.tar.xz"


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("old")
    shutil.unpack_archive(ARCHIVE, folder)
    return folder


@pytest.fixture
def expected(old: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((old / "expected.json").read_text())
    return content


def _go_on(config: PretrainConfig, old: Path, digits: Path) -> Outcome:
    beton = str(digits / "train.beton")
    return train(config, old / "run", Placement(0, 1), lambda step: step >= 6, Console(quiet=True), beton)


def test_a_run_goes_on_as_it_would_have(old: Path, expected: dict[str, Any], digits_folder: Path) -> None:
    config, recipe = read_run(old / "run")
    assert recipe == "digits"
    assert (config.method.name, len(config.views)) == ("vicreg", 2)
    assert isinstance(config.method, vicreg.Config)
    assert config.method.invariance_weight == 20.0
    assert config.views[1].solarize_p == 0.2
    assert _go_on(config, old, digits_folder) is Outcome.STOPPED
    lines = read_metrics(old / "run")
    for line, then, rel in zip(lines, expected["metrics"][:2], (1e-4, 2e-3), strict=True):
        # The same bits on the same processor with as many threads; elsewhere rounding grows from step to step.
        assert {name: line[name] for name in then} == pytest.approx(then, rel=rel)


def test_another_configuration_is_refused_still(old: Path, digits_folder: Path) -> None:
    config, _ = read_run(old / "run")
    other = dataclasses.replace(config, method=dataclasses.replace(config.method, invariance_weight=25.0))
    with pytest.raises(ValueError, match=r"another configuration(?s:.*)method.invariance_weight: 20.0 -> 25.0$"):
        train(
            other, old / "run", Placement(0, 1), lambda _: True, Console(quiet=True), str(digits_folder / "train.beton")
        )


def test_encoders_are_read(old: Path, expected: dict[str, Any]) -> None:
    config, _ = read_run(old / "run")
    images = torch.linspace(-1, 1, 2 * 3 * 32 * 32).view(2, 3, 32, 32)
    there = checkpoint.list_checkpoints(old / "run" / "checkpoints")[0]
    with torch.no_grad():
        for encoder in (load_encoder(old / "encoder.pt"), build_encoder(old / "run", there.name, config)):
            assert encoder(images).sum(1).tolist() == pytest.approx(expected["feature_sums"], rel=1e-4)
    assert read(there).model == config.model


def test_what_a_later_version_wrote_is_refused() -> None:
    with pytest.raises(ValueError, match=f"form {SCHEMA + 1}, allowed: 1 to {SCHEMA}; a newer version"):
        methods.read_config({}, SCHEMA + 1)
    assert upgraded({"method": {}}, SCHEMA) == {"method": {}}


def test_a_rate_of_the_online_head_of_before_means_nothing_today() -> None:
    values = {"method": {"name": "vicreg"}, "online": {"every_epochs": 10, "lr": 0.1, "neighbours": 5}}
    assert upgraded(values, 2)["online"] == {"every_epochs": 10, "neighbours": 5}
    assert methods.read_config(values, 2).online == OnlineConfig(every_epochs=10, neighbours=5)
