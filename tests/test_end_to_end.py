"""The commands of the demo as a user types them: digits to betons, VICReg, evaluations, a report with these numbers."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# What a thin prototype reached with 10, 50, 144 and 1,437 labels; the demo must do at least as well.
EXPECTED_PERCENT = {10: 72.0, 50: 92.0, 144: 95.0, 1437: 98.0}


def _run(*command: str) -> str:
    done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, timeout=1000)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_makefile_runs_these_commands() -> None:
    makefile = (ROOT / "Makefile").read_text()
    demo = makefile.split("\ndemo: setup\n")[1].split("\n\n")[0]
    assert [re.sub(r"^\t\$\(BIN\)/python ", "", line) for line in demo.splitlines()] == [
        "dataprep/write_ffcv.py digits --out data/digits --split train",
        "dataprep/write_ffcv.py digits --out data/digits --split val",
        "dataprep/write_ffcv.py digits --multi-label --out data/digits-multi-label --split train",
        "dataprep/write_ffcv.py digits --multi-label --out data/digits-multi-label --split val",
        "jobs/pretrain.py --cluster local --recipe digits",
        "jobs/eval_all.py --cluster local runs/digits",
    ]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_demo_learns_as_well_as_stated(digits_folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    data = ["--data.train", str(digits_folder / "train.beton"), "--data.val", str(digits_folder / "val.beton")]
    _run("jobs/pretrain.py", "--recipe", "digits", "--run", str(run), *data)
    report = _run("jobs/eval_all.py", str(run))
    metrics = {
        name: json.loads((run / "evals" / f"few-labels{name}" / "result.json").read_text())["metrics"]
        for name in ("", "@random", "@pixels")
    }
    for count, percent in EXPECTED_PERCENT.items():
        trained, random, pixels = (metrics[name][f"top1_{count}_labels"] for name in ("", "@random", "@pixels"))
        assert trained >= percent
        assert trained > max(random, pixels)
        assert f"{trained:.1f}" in report
