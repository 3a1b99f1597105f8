"""The scheduler's own troubles: a silent controller, a node taken for dead, a killed batch step, odd variables."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from itertools import pairwise

import pytest

from drills.cluster_runs import Runs, outcomes, ranks, wait_for
from drills.faults import batch_step, silent_controller
from slurm import attempts, scheduler
from slurm.devcluster import processes

pytestmark = pytest.mark.slow


def test_a_scheduler_that_is_busy_when_a_rank_dies_costs_no_job(runs: Runs) -> None:
    """The job's own scontrol answers five times as a real one does that gets no answer; srun needs none."""
    folder = runs.folder / "bin"
    folder.mkdir()
    busy = "slurm_load_jobs error: Socket timed out on send/recv operation"
    (folder / "scontrol").write_text(
        f'#!/bin/sh\necho "$1" >> {folder}/calls\n'
        f'if [ "$(wc -l < {folder}/calls)" -le 5 ]; then echo "{busy}" >&2; exit 1; fi\n'
        f'exec {shutil.which("scontrol")} "$@"\n'
    )
    (folder / "scontrol").chmod(0o755)
    profile = {"setup": [f'export PATH="{folder}:$PATH"'], "restarts_in_place": 0}
    job, job_id = runs.submit("count", steps=200, num_nodes=2, ranks_per_node=1, profile=profile)
    runs.await_attempt(job, 0, 10)
    os.kill(ranks(job_id)[1], signal.SIGKILL)
    waiting = "waits for an answer of SLURM: scontrol show job"
    wait_for("the reason on record", lambda: waiting in attempts.read(job)[0].reason, 30)
    shown = " ".join(runs.command("jobs/status.py", str(runs.folder / "run")).stdout.split())
    assert "Socket timed out on send/recv operation" in shown, shown
    assert runs.await_over(job_id) == "COMPLETED"
    assert outcomes(job) == ["failed", "finished"]
    assert "Killed" in attempts.read(job)[0].reason
    assert (folder / "calls").read_text().split()[5:7] == ["show", "requeue"]


def test_a_controller_that_is_silent_for_a_while_costs_no_job(runs: Runs) -> None:
    job, job_id = runs.submit("count", steps=600, num_nodes=2, ranks_per_node=1)
    runs.await_attempt(job, 0, 10)
    with silent_controller(runs.cluster):
        os.kill(ranks(job_id)[1], signal.SIGKILL)
        time.sleep(20)
    assert runs.await_over(job_id, 180) == "COMPLETED"
    assert outcomes(job) == ["failed", "finished"]


def test_a_killed_batch_step_is_tried_again_and_its_ranks_save(runs: Runs) -> None:
    job, job_id = runs.submit("count", steps=120, num_nodes=2, ranks_per_node=2)
    runs.await_attempt(job, 0, 10)
    os.kill(batch_step(job), signal.SIGKILL)
    assert runs.await_over(job_id) == "COMPLETED"
    first, second = attempts.read(job)
    assert (first.outcome, second.outcome) == ("failed", "finished")
    assert first.reason.endswith("was killed by SIGKILL")
    assert first.progress > 0
    assert {(job / f"count_{rank}").read_text() for rank in range(4)} == {"120"}


def test_when_everything_of_the_batch_step_is_killed_the_ranks_see_to_the_requeue(runs: Runs) -> None:
    job, job_id = runs.submit("count", steps=120, num_nodes=2, ranks_per_node=2)
    runs.await_attempt(job, 0, 10)
    kill_all_of_batch_step(job)
    assert runs.await_over(job_id, 180) == "COMPLETED"
    first, second = attempts.read(job)
    assert (first.outcome, second.outcome, second.restart) == ("failed", "finished", 1)
    assert first.reason == f"the batch step on {first.nodes[0]} was killed by SIGKILL"
    assert {(job / f"count_{rank}").read_text() for rank in range(4)} == {"120"}


def test_a_spare_node_takes_the_place_of_a_lost_one(runs: Runs) -> None:
    job, job_id = runs.submit("count", steps=100, num_nodes=2, ranks_per_node=1, spare_nodes=1)
    lost = runs.await_attempt(job, 0, 10).nodes[1]
    runs.cluster.kill_node(lost)
    try:
        assert runs.await_over(job_id, 180) == "COMPLETED"
    finally:
        runs.cluster.start_node(lost)
    first, second = attempts.read(job)
    assert (first.outcome, second.outcome, second.restart, second.start) == ("failed", "finished", 0, 1)
    assert lost not in second.nodes
    assert len(second.nodes) == 2


def test_an_attempt_on_a_node_that_is_taken_for_dead_stops_when_the_next_begins(runs: Runs) -> None:
    """The slurmd dies, the node lives: SLURM starts the job elsewhere while the old rank counts on."""
    job, job_id = runs.submit("count_on", steps=1200, num_nodes=1, ranks_per_node=1)
    node = runs.await_attempt(job, 0, 10).nodes[0]
    old = ranks(job_id)[0]
    os.kill(runs.cluster.pids[node], signal.SIGKILL)
    runs.await_attempt(job, 1, 1, 120)
    wait_for("the end of the old rank", lambda: not processes.alive(old), 10)
    runs.cluster.start_node(node)
    lines = [line.split() for line in (job / "counted").read_text().splitlines()]
    changes = [number for number, (one, other) in enumerate(pairwise(lines)) if one[0] != other[0]]
    assert len(changes) == 1, "both attempts counted at the same time"
    runs.cluster.call("scancel", job_id)
    runs.await_over(job_id)


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
