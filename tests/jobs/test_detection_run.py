"""Detection by the commands: raw data to betons, measured on two ranks beside random weights, shown in the report."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from jobs import eval_all, report
from jobs.planning import recipes
from jobs.planning.recipes import Evaluation
from tests.dataprep.raw_detection import write_coco, write_voc
from tests.jobs.run_folders import digits_config, write_run
from tests.vicreg.detection.small_detection import C4, FPN
from vicreg.evals import protocols, results
from vicreg.evals.results import RANDOM, TRAINED

ROOT = Path(__file__).parents[2]


def test_presets_have_what_their_names_say() -> None:
    for name in ("voc-detection", "voc-detection-moco", "coco-detection"):
        asked = recipes.evaluation("imagenet-1000ep", name)
        assert (asked.module, asked.baselines) == ("detection", (RANDOM,))
        assert asked.data in name
    assert protocols.PRESETS["coco-detection"].settings["steps"] == 90_000


def _evaluations() -> tuple[Evaluation, ...]:
    """Both protocols, small."""
    as_json = [json.loads(json.dumps(asdict(settings))) for settings in (C4, FPN)]
    voc, coco = ({key: value for key, value in one.items() if value is not None} for one in as_json)
    return (
        Evaluation("voc-detection", "detection", voc, (RANDOM,), "voc"),
        Evaluation("coco-detection", "detection", coco, (), "coco"),
    )


@pytest.mark.slow
def test_both_protocols_from_raw_data_to_the_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_voc(tmp_path, {"2007_trainval": 5, "2012_trainval": 5, "2007_test": 5})
    write_coco(tmp_path, {"train": 8, "val": 4})
    for name, short in (("voc-detection", "voc"), ("coco-detection", "coco")):
        for split in ("train", "val"):
            command = ["dataprep/write_ffcv.py", name, "--root", str(tmp_path), "--split", split, "--allow-partial"]
            command += ["--out", str(tmp_path / "data" / short), "--num-workers", "0"]
            subprocess.run([sys.executable, *command], cwd=ROOT, check=True, capture_output=True)
    run = tmp_path / "run"
    write_run(run, digits_config(tmp_path / "data" / "voc"), "digits")
    monkeypatch.setattr(recipes, "evaluations", lambda name: _evaluations())
    assert eval_all.main([str(run)]) == 0
    found = {(one.evaluation, one.subject): one for one in results.read_all(run)}
    assert found.keys() == {("voc-detection", TRAINED), ("voc-detection", RANDOM), ("coco-detection", TRAINED)}
    assert found["voc-detection", TRAINED].data["train"]["num_images"] == 10
    assert not list(run.glob("evals/*/state"))
    assert report.main([str(run)]) == 0
    page, text = (run / "report.html").read_text(), (run / "report.md").read_text()
    assert page.count('<svg class="objects"') == 2 * (5 + 4)
    assert "Found and true objects" in page
    for said in ("AP50", "AP, mask", "AP50, box", "random weights"):
        assert said in text
    assert eval_all.main([str(run)]) == 0  # all of it holds
    assert {one.finished for one in results.read_all(run)} == {one.finished for one in found.values()}
