"""All seven evaluations as jobs on a real cluster, on a few digits in the place of the published data sets."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from drills.cluster_runs import ROOT, Runs
from slurm.chain import read_jobs
from tests.jobs.run_folders import digits_config, write_run
from vicreg.evals import results
from vicreg.evals.results import TRAINED

SEVEN = ("linear", "semisup-1", "semisup-10", "places205", "voc07", "inat18", "knn")
NUM_IMAGES = {"train": 600, "val": 300}
PROFILE = """
[devcluster]
partition = "normal"
gpus_per_node = 2
cpus_per_gpu = 1
mem_per_gpu_gb = 2
time = "1:00:00"
environment = {{GLOO_SOCKET_IFNAME = "lo"}}
data = {{places205 = "{folder}/digits", inat18 = "{folder}/digits", voc07 = "{folder}/attributes"}}
"""


@pytest.mark.slow
@pytest.mark.timeout(420)
def test_all_seven_evaluations_run_as_a_chain(runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, more in (("digits", ()), ("attributes", ("--multi-label",))):
        for split, num in NUM_IMAGES.items():
            command = ["dataprep/write_ffcv.py", "digits", "--out", str(tmp_path / name), "--split", split, *more]
            limited = [sys.executable, *command, "--limit", str(num)]
            subprocess.run(limited, cwd=ROOT, check=True, capture_output=True)
    (tmp_path / "clusters.toml").write_text(PROFILE.format(folder=tmp_path))
    monkeypatch.setenv("VICREG_CLUSTERS", str(tmp_path / "clusters.toml"))
    run = tmp_path / "run"
    write_run(run, digits_config(tmp_path / "digits"), "digits")

    shown = runs.command("jobs/eval_all.py", str(run), "--gpus", "1", "--evals", *SEVEN).stdout
    jobs = read_jobs(run)
    assert list(jobs) == [*SEVEN, "report"]
    assert all(job.job_id in shown for job in jobs.values())
    for name, job in jobs.items():
        assert runs.await_over(job.job_id, 300) == "COMPLETED", runs.command("jobs/status.py", str(run)).stdout
        if name != "report":
            result = results.read(run, name, TRAINED)
            assert result
            assert result.data["val"]["num_images"] == NUM_IMAGES["val"]
            assert all(0 <= value <= 100 for value in result.metrics.values())
    report = (run / "report.md").read_text()
    for name in SEVEN:
        assert name in report
