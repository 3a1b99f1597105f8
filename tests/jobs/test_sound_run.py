"""Tones through all commands: written, learned from by two ranks, killed, gone on with, measured, reported."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

import vicreg
from dataprep import write_ffcv
from dataprep.beton.contract import open_beton
from jobs import embed, export_encoder, pretrain
from jobs.options.pretrain import parse
from tests.jobs.run_folders import write_run
from tests.killed_runs import assert_ended_alike, run_and_kill, run_command
from vicreg.config import PretrainConfig

STEPS = 6  # 2 epochs of 3


@pytest.fixture(scope="module")
def tones(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with train.beton (96 clips) and val.beton (32)."""
    folder = tmp_path_factory.mktemp("tones")
    for split, limit in (("train", "96"), ("val", "32")):
        options = ["--out", str(folder), "--split", split, "--limit", limit, "--num-workers", "0"]
        assert write_ffcv.main(["tones", *options]) == 0
    return folder


def _options(tones: Path, run: Path) -> list[str]:
    data = [f"--data.{split}={tones / f'{split}.beton'}" for split in ("train", "val")]
    shorter = ["--train.epochs", "2", "--train.global-batch", "32", "--optimizer.warmup-epochs", "1"]
    often = ["--train.log-every-steps", "1", "--train.checkpoint-every-steps", "1", "--model.expander", "32-32"]
    return ["--cluster", "local", "--recipe", "tones", "--run", str(run), *data, *shorter, *often]


def _config(tones: Path) -> PretrainConfig:
    return parse(_options(tones, tones / "run")).config


def test_tones_are_the_same_every_time_and_differ_by_class(tones: Path, tmp_path: Path) -> None:
    options = ["--out", str(tmp_path), "--split", "val", "--limit", "32", "--num-workers", "0"]
    assert write_ffcv.main(["tones", *options]) == 0
    assert (tmp_path / "val.beton").read_bytes() == (tones / "val.beton").read_bytes()
    train, val = (open_beton(tones / f"{split}.beton") for split in ("train", "val"))
    assert len({train.image_bytes(clip).tobytes() for clip in range(96)}) == 96
    assert not set(train.clips["recording"].tolist()) & set(val.clips["recording"].tolist())


def test_a_command_fits_itself_to_sound_and_says_what_it_will_do(
    tones: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = _config(tones)
    assert (config.model.sound.rate_hz, config.model.sound.clip_samples) == (8_000, 8_000)
    assert pretrain.main([*_options(tones, tones / "run"), "--dry-run"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "96 clips of sound at 8,000 Hz" in shown
    assert "resnet10-narrow and resnet10-narrow-wave, each with expander 32-32, views of 40 x 57 and 7,200" in shown


def test_what_takes_images_says_so(tones: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    write_run(run, _config(tones), "tones")
    with pytest.raises(SystemExit):
        export_encoder.main([str(run), "--format", "torchvision", "--out", str(tmp_path / "out.pth")])
    with pytest.raises(SystemExit):
        embed.main([str(run), "--images", str(tones / "val.beton"), "--out", str(tmp_path / "f.npy")])
    assert capsys.readouterr().err.count("takes images, and this run is of sound at 8,000 Hz") == 2
    model = vicreg.load(run)
    with pytest.raises(ValueError, match=r"TrainedModel\.embed takes images"):
        model.embed(tmp_path)
    assert model.embed_beton(tones / "val.beton").shape == (32, 128)
    with pytest.raises((SystemExit, ValueError)):
        parse(["--recipe", "auto", f"--data.train={tones / 'train.beton'}"])


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_from_tones_to_a_report(tones: Path, tmp_path: Path) -> None:
    whole, run = tmp_path / "whole", tmp_path / "run"
    commands = [
        [sys.executable, "jobs/pretrain.py", *_options(tones, folder), "--gpus", "2"] for folder in (whole, run)
    ]
    run_command(*commands[0])
    run_and_kill(commands[1], run, 2)
    run_command(*commands[1])
    assert_ended_alike(whole, run, STEPS)

    report = run_command(sys.executable, "jobs/eval_all.py", "--cluster", "local", str(run))
    results = {path.parent.name: json.loads(path.read_text()) for path in run.glob("evals/*/result.json")}
    assert results.keys() == {"sound", "sound@random", "knn", "knn@random", "gallery"}
    assert results["sound"]["metrics"].keys() == {"top1_linear_held_out"}  # six steps learn nothing
    assert "linear held out" in report
    page = (run / "report.html").read_text()
    assert page.count("<audio controls") == len(results["gallery"]["details"]["neighbours"]["sounds"])
    run_command(sys.executable, "jobs/eval_all.py", "--cluster", "local", str(run), "--encoder", "b", "--evals", "knn")
    assert (run / "evals" / "knn-of-b" / "result.json").is_file()
