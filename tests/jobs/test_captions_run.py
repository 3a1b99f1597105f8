"""Numbers and their spelled-out names through all commands: betons, two ranks, a kill, retrieval, a report."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from dataprep.write_ffcv import main as write
from jobs.options.pretrain import parse
from tests.killed_runs import assert_ended_alike, run_and_kill, run_command
from vicreg.cost.estimate import estimate

WORDS = 12
STEPS = 60  # 10 epochs of 6


@pytest.fixture(scope="module")
def numbers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with train.beton (400 numbers) and val.beton (100)."""
    folder = tmp_path_factory.mktemp("numbers")
    for split, limit in (("train", "400"), ("val", "100")):
        options = ["digits", "--captions", "--split", split, "--limit", limit, "--num-workers", "0"]
        assert write([*options, "--out", str(folder)]) == 0
    return folder


def _data(folder: Path) -> list[str]:
    return [f"--data.{split}={folder / f'{split}.beton'}" for split in ("train", "val")]


def test_a_configuration_knows_the_words_of_the_data(numbers: Path) -> None:
    config = parse(["--recipe", "digit-captions", *_data(numbers)]).config
    assert (config.model.num_words, config.other_kinds) == (WORDS, ("text",))
    rarer = parse(["--recipe", "digit-captions", *_data(numbers), "--model.min-word-count", "400"]).config
    assert rarer.model.num_words == 2  # the, number
    wider = parse(["--recipe", "digit-captions", *_data(numbers), "--model.encoder-b", "gru-32-128"]).config
    gru = 3 * 128 * (32 + 128 + 2) - 3 * 64 * (32 + 64 + 2) + (128 - 64) * 128  # and the expander's first layer
    assert estimate(wider, 1, False).num_parameters - estimate(config, 1, False).num_parameters == gru


def test_data_without_captions_are_refused(digits_folder: Path) -> None:
    with pytest.raises(ValueError, match=r"train\.beton: no word stands 1 times in its captions, allowed: data that"):
        parse(["--recipe", "digit-captions", *_data(digits_folder)])


def _command(folder: Path, run: Path) -> list[str]:
    options = {
        "recipe": "digit-captions",
        "cluster": "local",
        "run": run,
        "gpus": 2,
        "data.image-size": 16,
        "data.eval-resize": 16,
        "train.epochs": 10,
        "train.log-every-steps": 1,
        "train.checkpoint-every-steps": 10,
    }
    return [
        sys.executable,
        "jobs/pretrain.py",
        *_data(folder),
        *[f"--{name}={value}" for name, value in options.items()],
    ]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_from_numbers_to_a_report(numbers: Path, tmp_path: Path) -> None:
    whole, run = tmp_path / "whole", tmp_path / "run"
    run_command(*_command(numbers, whole))
    run_and_kill(_command(numbers, run), run, 25)
    run_command(sys.executable, "jobs/pretrain.py", "--run", str(run), "--gpus", "2", "--cluster", "local")
    assert_ended_alike(whole, run, STEPS)

    run_command(sys.executable, "jobs/eval_all.py", str(run), "--cluster", "local")
    results = {path.parent.name: json.loads(path.read_text()) for path in run.glob("evals/*/result.json")}
    assert results.keys() == {"retrieval", "retrieval@random"}
    trained, random = (results[name]["metrics"] for name in ("retrieval", "retrieval@random"))
    assert trained["text_to_image_r10"] > 20 + random["text_to_image_r10"]  # by chance 10
    page = (run / "report.html").read_text()
    assert "Captions found for images" in page
    assert "text to image, R@10" in page
    assert "no longer holds" not in page
