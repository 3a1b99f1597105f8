"""Whole runs on a real cluster: pretraining, its evaluations and the report, undisturbed and disturbed."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch

from drills.cluster_runs import Runs, metrics, outcomes, ranks, wait_for
from slurm import attempts, chain
from slurm.chain import read_jobs
from slurm.cluster import load
from vicreg import checkpoint

EVALUATIONS = ("few-labels", "knn", "linear", "semisup-1", "semisup-10", "gallery")


def _options(digits: Path, run: Path, epochs: int, *more: str) -> list[str]:
    options = {
        "--recipe": "digits",
        "--run": str(run),
        "--data.train": str(digits / "train.beton"),
        "--data.val": str(digits / "val.beton"),
        "--data.image-size": "16",
        "--data.eval-resize": "16",
        "--model.expander": "64-64",
        "--train.epochs": str(epochs),
        "--train.global-batch": "256",
        "--train.log-every-steps": "1",
        "--train.checkpoint-every-steps": "10",
    }
    return ["jobs/pretrain.py", *[part for pair in options.items() for part in pair], *more]


def _assert_all_done(runs: Runs, run: Path, num_steps: int) -> None:
    """Every job of the chain completed, every evaluation ran once, every step stands in the metrics once."""
    for name, job in read_jobs(run).items():
        assert runs.await_over(job.job_id, 300) == "COMPLETED", name
    for name in EVALUATIONS:
        assert outcomes(chain.job_folder(run, name)) == ["finished"]
        assert json.loads((run / "evals" / name / "result.json").read_text())["evaluation"] == name
    assert "top-1" in (run / "report.md").read_text()
    assert [line["step"] for line in metrics(run)] == list(range(num_steps))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_four_nodes_pretrain_then_evaluate_then_report(runs: Runs, digits_folder: Path) -> None:
    run, started = runs.folder / "run", time.time()
    size = ("--nodes", "4", "--gpus", "2")
    done = runs.command(*_options(digits_folder, run, 2), *size, "--then-eval", "--stage-data")
    assert list(read_jobs(run)) == ["pretrain", *EVALUATIONS, "report"]
    for job in read_jobs(run).values():
        assert job.job_id in done.stdout
    _assert_all_done(runs, run, 10)
    config = json.loads((chain.job_folder(run, "pretrain") / "job.json").read_text())
    assert (config["num_nodes"], config["ranks_per_node"]) == (4, 2)
    staged = list(Path(load("devcluster").node_local_folder).parent.glob("n[1-4]/vicreg-*/*/train.beton"))
    for node in range(1, 5):
        (copy,) = [path for path in staged if path.parts[-4] == f"n{node}" and path.stat().st_mtime > started]
        assert copy.read_bytes() == (digits_folder / "train.beton").read_bytes()
        shutil.rmtree(copy.parent)
    again = runs.command("jobs/eval_all.py", str(run))
    assert "nothing to do" in again.stdout


@pytest.mark.slow
def test_a_cancelled_run_stays_cancelled_with_all_that_waits_for_it(runs: Runs, digits_folder: Path) -> None:
    run = runs.folder / "run"
    runs.command(*_options(digits_folder, run, 400), "--nodes", "2", "--gpus", "1", "--then-eval")
    job = chain.job_folder(run, "pretrain")
    runs.await_attempt(job, 0, 3)
    shown = runs.command("jobs/status.py", str(run)).stdout
    assert "RUNNING" in shown
    assert "waits for pretrain" in shown
    runs.command("jobs/status.py", str(run), "--cancel")
    for name, entry in read_jobs(run).items():
        assert runs.await_over(entry.job_id) == "CANCELLED", name
    assert outcomes(job) == ["cancelled"]
    shown = runs.command("jobs/status.py", str(run)).stdout
    for row in (r"pretrain +cancelled", *(rf"{name} +removed +what .* not finish: pretrain" for name in EVALUATIONS)):
        assert re.search(row, shown), shown


def _weights(run: Path) -> dict[str, torch.Tensor]:
    weights: dict[str, torch.Tensor] = checkpoint.load(checkpoint.list_checkpoints(run / "checkpoints")[-1])["method"]
    return weights


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_whatever_happens_on_the_way_ends_in_the_same_bits(runs: Runs, digits_folder: Path) -> None:
    epochs, size = 32, ("--nodes", "2", "--gpus", "1")
    whole, run = runs.folder / "whole", runs.folder / "run"
    runs.command(*_options(digits_folder, whole, epochs), *size)
    assert runs.await_over(read_jobs(whole)["pretrain"].job_id, 300) == "COMPLETED"

    runs.command(*_options(digits_folder, run, epochs), *size, "--partition", "low", "--then-eval")
    job, job_id = chain.job_folder(run, "pretrain"), read_jobs(run)["pretrain"].job_id

    runs.await_attempt(job, 0, 12)
    runs.cluster.call("scontrol", "requeue", job_id)

    step = _next_attempt(runs, job, 1)
    runs.cluster.call(
        "sbatch", "--partition=normal", "--nodes=4", "--exclusive", "--wrap=sleep 1", "--output=/dev/null"
    )

    step = _next_attempt(runs, job, 2)
    os.kill(ranks(job_id)[1], signal.SIGKILL)

    _next_attempt(runs, job, 3)
    lost = attempts.read(job)[-1].nodes[1]
    runs.cluster.kill_node(lost)
    wait_for("the end of the attempt", lambda: outcomes(job)[3] != "running" or len(outcomes(job)) > 4, 90)
    runs.cluster.start_node(lost)

    restart = len(outcomes(job))
    wait_for("the next attempt", lambda: len(outcomes(job)) > restart or outcomes(job)[-1] == "running", 120)
    runs.cluster.call("scontrol", "update", f"JobId={job_id}", "TimeLimit=1")
    wait_for("the time limit's signal", lambda: outcomes(job)[-1] in ("stopped", "failed", "finished"), 120)
    runs.cluster.call("scontrol", "update", f"JobId={job_id}", "TimeLimit=60")

    _assert_all_done(runs, run, epochs * 5)
    assert step > 12
    reasons = [attempt.reason for attempt in attempts.read(job)]
    # Of SIGTERM and SIGUSR2, which SLURM sends on preemption and near the time limit, either may be the first.
    for reason, word in zip(reasons, ("scontrol requeue", "asked to stop by SIG", "Killed", "requeue"), strict=False):
        assert word in reason, reasons
    assert any("asked to stop by SIG" in reason for reason in reasons[4:]), reasons
    assert outcomes(job)[-1] == "finished"
    expected = _weights(whole)
    for name, tensor in _weights(run).items():
        assert torch.equal(tensor, expected[name]), name


def _next_attempt(runs: Runs, job: Path, restart: int) -> int:
    """Wait until an attempt has got a little further than the one before; returns its step."""
    before = attempts.read(job)[-1].progress
    runs.await_attempt(job, restart, max(0, before) + 5, 180)
    beat = attempts.read_heartbeat(job)
    assert beat
    return beat.progress
