"""Detection and segmentation by the commands alone, on two ranks: killed, typed again, and the same bits."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dataprep import write_ffcv
from jobs import pretrain, report
from tests.dataprep.raw_detection import write_coco, write_voc, write_voc_segmentation
from vicreg.evals import protocols
from vicreg.evals.published import DataSet
from vicreg.evals.work import STATE_FOLDER

ROOT = Path(__file__).parents[2]
DETECTORS = ("steps=8", "milestones=6", "batch=4", "short_sides=48,64,16", "test_short_side=64", "longest_side=128")
DETECTORS += ("proposals_before=60,60", "proposals_after=20,20", "regions=8", "precise_batches=1", "warmup_steps=4")
SETTINGS = {
    "voc-detection": (*DETECTORS, "anchor_sizes=16,32"),
    "coco-detection": (*DETECTORS, "anchor_sizes=8,16,24,32,64", "pyramid=8", "hidden=16"),
    "linear-segmentation": ("steps=8", "batch=4", "crop=64", "warmup_steps=2"),
}


def _write(root: Path) -> None:
    """The three data sets in their own layouts, and as betons in data/."""
    write_voc(root / "voc", {"2007_trainval": 6, "2012_trainval": 6, "2007_test": 5})
    write_coco(root / "coco", {"train": 10, "val": 5})
    write_voc_segmentation(root / "voc12", {"train": 10, "val": 5})
    for name, raw in (("voc-detection", "voc"), ("coco-detection", "coco"), ("voc-segmentation", "voc12")):
        for split in ("train", "val"):
            out = ["--out", str(root / "data" / name), "--split", split, "--allow-partial", "--num-workers", "0"]
            assert write_ffcv.main([name, "--root", str(root / raw), *out]) == 0


def _learn(root: Path, run: Path) -> None:
    """A run of a few steps on the images of VOC, without their labels."""
    data = root / "data" / "voc-detection"
    options = ["--data.train", str(data / "train.beton"), "--data.val", str(data / "val.beton")]
    options += ["--train.epochs", "2", "--train.global-batch", "6", "--model.expander", "32-32"]
    options += ["--online.every-epochs", "0", "--optimizer.warmup-epochs", "0"]
    assert pretrain.main(["--recipe", "digits", "--run", str(run), *options]) == 0


def _start(run: Path) -> subprocess.Popen[str]:
    command = [sys.executable, str(ROOT / "jobs/eval_all.py"), str(run), "--gpus", "2", "--evals", *SETTINGS, "--set"]
    command += [f"{name}.{one}" for name, settings in SETTINGS.items() for one in settings]
    return subprocess.Popen(
        command, cwd=run.parent, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def _await(process: subprocess.Popen[str], is_so: Callable[[], bool]) -> None:
    while not is_so():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.01)


def _results(run: Path) -> dict[str, Any]:
    """What was measured, by the evaluation's name."""
    found = {path.parent.name: json.loads(path.read_text()) for path in run.glob("evals/*/result.json")}
    return {name: {key: one[key] for key in ("metrics", "details", "settings")} for name, one in found.items()}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_killed_in_the_middle_they_end_in_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    _write(tmp_path)
    run, whole = tmp_path / "run", tmp_path / "whole"
    _learn(tmp_path, run)
    subprocess.run(["cp", "-r", run, whole], check=True)

    killed = _start(run)
    _await(killed, lambda: (run / "evals" / "coco-detection" / STATE_FOLDER).is_dir())
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    assert not (run / "evals" / "coco-detection" / "result.json").exists()

    for one in (run, whole):
        last = _start(one)
        said = last.communicate(timeout=200)[0]
        assert last.returncode == 0, said
    found = _results(run)
    assert found == _results(whole)
    assert found.keys() == {name + of for name in SETTINGS for of in ("", "@random")}
    assert not list(run.glob("evals/*/state"))

    as_published = (DataSet("VOC07+12", 12, 5, 20), DataSet("COCO 2017", 10, 5, 3))
    monkeypatch.setattr(protocols, "DATA_SETS", as_published)
    assert report.main([str(run)]) == 0
    text = (run / "report.md").read_text()
    for said in (
        "VOC07+12: measured and published",
        "82.4",
        "COCO 2017: measured and published",
        "39.4",
        "36.4",
        "mIoU",
    ):
        assert said in text, text
