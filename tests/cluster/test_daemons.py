"""The scheduler's own troubles: a silent controller, a node taken for dead, a killed batch step, odd variables."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from drills.cluster_runs import Runs
from drills.faults import silent_controller
from slurm import scheduler
from slurm.devcluster.daemons import DevCluster

pytestmark = pytest.mark.slow


def test_clusters_that_start_at_once_are_in_nobodys_way(cluster: DevCluster, tmp_path: Path) -> None:
    clusters = [DevCluster(tmp_path / str(number)) for number in range(3)]
    try:
        with ThreadPoolExecutor(len(clusters)) as pool:
            list(pool.map(lambda new: new.up(1, 0), clusters))
        for each in (cluster, *clusters):
            assert "idle" in each.call("sinfo", "--noheader")
    finally:
        for new in clusters:
            new.down()


def test_variables_in_the_environment_do_not_beat_the_plan(
    runs: Runs, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    against = {"PARTITION": "low", "TIMELIMIT": "1", "NO_REQUEUE": "1", "EXPORT": "NONE", "GRES": "gpu:7"}
    for name, value in against.items():
        monkeypatch.setenv(f"SBATCH_{name}", value)
    monkeypatch.setenv("SLURM_EXPORT_ENV", "NONE")  # what a site's --export=NONE leaves to srun
    job, job_id = runs.submit("count", steps=40, num_nodes=2, ranks_per_node=1)
    shown = runs.cluster.call("scontrol", "show", "job", job_id)
    for expected in ("Partition=normal", "TimeLimit=01:00:00", "Requeue=1"):
        assert expected in shown
    assert scheduler.queue()[job_id].script == str(job / "sbatch.sh")
    assert runs.await_over(job_id) == "COMPLETED"
    assert "SBATCH_NO_REQUEUE=1" in caplog.text


def test_a_controller_that_is_silent_while_a_chain_is_submitted_gets_each_job_once(runs: Runs) -> None:
    with silent_controller(runs.cluster):
        submitted: list[str] = []
        submitting = threading.Thread(target=lambda: submitted.append(runs.submit("count", steps=200)[1]))
        submitting.start()
        time.sleep(20)  # squeue gives up after some ten seconds, and is asked again
    submitting.join(60)
    there = [job_id for job_id, job in scheduler.queue().items() if job.script.startswith(str(runs.folder))]
    assert there == submitted
    runs.cluster.call("scancel", *submitted)
