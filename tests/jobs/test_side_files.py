"""What lies beside valid checkpoints may be damaged: a run goes on to the same bits, or names the file and the cure."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from jobs.planning.run_folder import is_finished, read_run
from jobs.pretrain import main
from tests.jobs.run_folders import digits_config, write_run
from vicreg import checkpoint
from vicreg.run_files import METRICS_FILE, TIMING, read_metrics

CONFIG, ENCODER = "config.json", "encoder.pt"
STEPS = 10


def _options(digits: Path, run: Path) -> list[str]:
    options = {
        "--recipe": "digits",
        "--run": str(run),
        "--data.train": str(digits / "train.beton"),
        "--data.val": str(digits / "val.beton"),
        "--data.image-size": "16",
        "--data.eval-resize": "16",
        "--model.expander": "64-64",
        "--train.epochs": "2",
        "--train.global-batch": "256",
        "--train.log-every-steps": "1",
        "--train.checkpoint-every-steps": "4",
    }
    return [part for pair in options.items() for part in pair]


@pytest.fixture(scope="module")
def whole(digits_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    run = tmp_path_factory.mktemp("runs") / "whole"
    assert main(_options(digits_folder, run)) == 0
    return run


@pytest.fixture
def stopped(whole: Path, tmp_path: Path) -> Path:
    """The same as if the machine had lost power after step 9: checkpoints of steps 4 and 8, which say nothing more."""
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    newest = run / "checkpoints" / f"step_{STEPS:08d}"
    shutil.rmtree(newest)
    (run / ENCODER).write_bytes(b"")
    return run


def _numbers(run: Path) -> list[dict[str, Any]]:
    return [{name: value for name, value in line.items() if name not in TIMING} for line in read_metrics(run)]


def test_a_run_goes_on_to_the_same_bits_whatever_lies_damaged_beside_its_checkpoints(
    digits_folder: Path, whole: Path, stopped: Path, caplog: pytest.LogCaptureFixture
) -> None:
    [saved] = checkpoint.list_checkpoints(stopped / "checkpoints")
    (saved / "manifest.json").write_text("null")
    (stopped / CONFIG).write_bytes((stopped / CONFIG).read_bytes()[:100])
    with (stopped / METRICS_FILE).open("ab") as file:
        file.write(b'{"step": 10, "epo' + bytes(5000))
    assert not is_finished(stopped)
    assert main(_options(digits_folder, stopped)) == 0
    states = [checkpoint.load(checkpoint.list_checkpoints(run / "checkpoints")[-1]) for run in (whole, stopped)]
    for name, tensor in states[0]["method"].items():
        assert torch.equal(tensor, states[1]["method"][name]), name
    assert _numbers(stopped) == _numbers(whole)
    assert len((stopped / METRICS_FILE).read_bytes().splitlines()) == STEPS
    assert read_run(stopped) == read_run(whole)
    assert is_finished(stopped)
    said = " ".join(record.getMessage() for record in caplog.records)
    for part in ("set aside as damaged_config.json", "encoder.pt is cut off or damaged"):
        assert part in said


def test_another_configuration_is_refused_by_the_checkpoint_too(
    digits_folder: Path, stopped: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (stopped / CONFIG).write_text("")
    with pytest.raises(SystemExit):
        main([*_options(digits_folder, stopped), "--train.epochs", "3"])
    assert "train.epochs: 2 -> 3" in capsys.readouterr().err
    assert (stopped / CONFIG).read_text() == ""


BROKEN: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "cut": lambda content: content[: len(content) // 2],
    "null": lambda _: b"null",
    "list": lambda _: b"[]",
    "number": lambda _: b"1e999",
    "no UTF-8": lambda content: b"\xff" + content,
    "deep": lambda _: b"[" * 100_000,
    "zeros": lambda content: bytes(len(content)),
    "without parts": lambda _: b"{}",
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_damaged_config_is_named_with_the_cure(digits_folder: Path, tmp_path: Path, how: str) -> None:
    write_run(tmp_path / "run", digits_config(digits_folder), "digits")
    path = tmp_path / "run" / CONFIG
    path.write_bytes(BROKEN[how](path.read_bytes()))
    with pytest.raises(ValueError, match=r"config\.json is damaged .*; the command that started the run .* goes on"):
        read_run(tmp_path / "run")
