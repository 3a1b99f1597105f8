"""A sweep on a real cluster: its lanes, a run that is cancelled, the same command again, the report behind all."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from dataprep.write_ffcv import main as write
from drills.cluster_runs import Runs, metrics
from slurm import attempts, chain
from slurm.chain import read_jobs

NAMES = [f"base-lr-{rate}_seed-{seed}" for rate in ("0.1", "0.4") for seed in (0, 1)]
STEPS = 10
DIGITS = ("--recipe", "digits", "--train.global-batch", "256", "--online.every-epochs", "1")


def _command(data: Path, folder: Path, rates: str, *more: str) -> list[str]:
    options = {
        "--run": str(folder),
        "--seeds": "2",
        "--sweep": f"optimizer.base-lr={rates}",
        "--at-once": "1",
        "--data.train": str(data / "train.beton"),
        "--data.val": str(data / "val.beton"),
        "--data.image-size": "16",
        "--data.eval-resize": "16",
        "--train.epochs": "2",
        "--train.log-every-steps": "1",
    }
    return ["jobs/pretrain.py", *[part for pair in options.items() for part in pair], *more]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_runs_follow_each_other_however_one_ends_and_what_is_missing_is_run_again(
    runs: Runs, digits_folder: Path
) -> None:
    folder = runs.folder / "rates"
    command = _command(digits_folder, folder, "0.1,0.4", *DIGITS)
    assert "jobs submitted: 4; in the queue already: 0" in runs.command(*command).stdout
    first = {name: read_jobs(folder / name)["pretrain"] for name in NAMES}
    for before, after in itertools.pairwise(NAMES):
        assert first[after].dependency == f"afterany:{first[before].job_id}"
    assert "jobs submitted: 0; in the queue already: 4" in runs.command(*command).stdout

    lost, *kept = NAMES
    runs.command("jobs/status.py", str(folder / lost), "--cancel")
    assert runs.await_over(first[lost].job_id) == "CANCELLED"
    for name in kept:
        assert runs.await_over(first[name].job_id, 180) == "COMPLETED", name
    shown = runs.command("jobs/status.py", str(folder)).stdout
    assert "3 of 4 runs finished" in shown
    assert "cancelled" in shown
    alone = [attempts.read(chain.job_folder(folder / name, "pretrain"))[-1] for name in kept]
    for earlier, later in itertools.pairwise(alone):
        assert earlier.ended <= later.started

    assert "jobs submitted: 1; in the queue already: 0" in runs.command(*command).stdout
    assert runs.await_over(read_jobs(folder / lost)["pretrain"].job_id, 180) == "COMPLETED"
    for name in kept:
        assert read_jobs(folder / name)["pretrain"].job_id == first[name].job_id
    for name in NAMES:
        assert [line["step"] for line in metrics(folder / name) if "loss" in line] == list(range(STEPS))
    runs.command("jobs/report.py", str(folder))
    report = (folder / "report.md").read_text()
    assert "2 combinations, 4 runs, of which 4 are finished" in report


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_report_waits_for_all_runs_and_their_evaluations(runs: Runs) -> None:
    folder, numbers = runs.folder / "rates", runs.folder / "numbers"
    for split in ("train", "val"):
        options = ["digits", "--captions", "--split", split, "--limit", "100", "--num-workers", "0"]
        assert write([*options, "--out", str(numbers)]) == 0
    command = _command(
        numbers, folder, "0.1", "--recipe", "digit-captions", "--train.global-batch", "50", "--then-eval"
    )
    runs.command(*command)
    assert runs.await_over(read_jobs(folder)["report"].job_id, 500) == "COMPLETED"
    for seed in (0, 1):
        result = json.loads((folder / f"base-lr-0.1_seed-{seed}" / "evals" / "retrieval" / "result.json").read_text())
        assert result["evaluation"] == "retrieval"
    report = (folder / "report.md").read_text()
    assert "1 combination, 2 runs, of which 2 are finished" in report
    assert "retrieval" in report
