"""Features out on a real cluster: a job that writes the beton, and one of two ranks on two nodes that waits for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import vicreg
from drills.cluster_runs import Runs
from jobs.reporting import feature_file
from slurm.chain import read_jobs
from tests.dataprep.raw_images import make_tree
from tests.jobs.run_folders import digits_config, write_run


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_folder_is_embedded_by_two_nodes(runs: Runs, tmp_path: Path, digits_folder: Path) -> None:
    run, photos, out = tmp_path / "run", make_tree(tmp_path / "photos", 60), tmp_path / "features.parquet"
    write_run(run, digits_config(digits_folder), "digits")
    where = [str(run), "--images", str(photos), "--out", str(out), "--nodes", "2", "--gpus", "1"]
    shown = runs.command("jobs/embed.py", *where).stdout
    jobs = read_jobs(run)
    assert [name.split("-")[0] for name in jobs] == ["images", "embed"]
    assert all(job.job_id in shown for job in jobs.values())
    for job in jobs.values():
        assert runs.await_over(job.job_id, 200) == "COMPLETED", runs.command("jobs/status.py", str(run)).stdout
    found = feature_file.read(out)
    assert len(found.names) == 180
    expected = vicreg.load(run, device="cpu").embed([photos / name for name in found.names])
    np.testing.assert_allclose(found.values, expected, rtol=1e-5, atol=1e-6)
