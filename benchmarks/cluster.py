"""What the suite adds to a SLURM cluster's own delays: from submission to the first step, and around interruptions.

`python benchmarks/cluster.py` starts a devcluster of its own and trains the digits recipe on it, in small. Each round
submits a run, requeues it as an operator does, and kills a rank with SIGKILL until that sends it back to the queue;
beside it a plain job is submitted and requeued, so that what is the scheduler's is known. Times come from what the run
keeps (jobs.json, heartbeat.json, attempts.jsonl, checkpoints) and the clock just before the interruption. The median
over the rounds is printed.
"""

from __future__ import annotations

import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

if __name__ == "__main__":  # the tree that this file stands in, whatever is installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import tyro
from rich.console import Console
from rich.table import Table

from drills.cluster_runs import ranks
from slurm import attempts, chain
from slurm.devcluster.daemons import DevCluster
from vicreg import checkpoint
from vicreg.training.train import CHECKPOINTS

ROOT = Path(__file__).parents[1]
NUM_NODES = 2
CHECKPOINT_EVERY_STEPS = 10
STEPS_BEFORE_INTERRUPTION = 13  # after each start of the first round; 3 more in each later one
POLL_S = 0.02
TIMEOUT_S = 120.0
OPTIONS = {
    "--cluster": "devcluster",
    "--recipe": "digits",
    "--nodes": str(NUM_NODES),
    "--gpus": "1",
    "--data.image-size": "16",
    "--data.eval-resize": "16",
    "--model.expander": "64-64",
    "--train.epochs": "1000",
    "--train.global-batch": "256",
    "--train.log-every-steps": "1",
    "--train.checkpoint-every-steps": str(CHECKPOINT_EVERY_STEPS),
}
PLAIN = f"#!/bin/sh\nsrun --ntasks={NUM_NODES} date +%s.%N\nsleep 120\n"


@dataclass(frozen=True)
class Measured:
    """One round; seconds, and steps that were done and had to be done again."""

    submit_s: float
    checkpoint_s: float
    requeue_s: float
    kill_s: float
    """With the ranks started anew on the nodes that the job has."""
    kill_and_requeue_s: float
    """After that has been done as often as it may be."""
    slurm_submit_s: float
    """Of submit_s, until the batch step began."""
    slurm_requeue_s: float
    """Of requeue_s, from the end of one attempt to the beginning of the next."""
    slurm_kill_s: float
    slurm_kill_and_requeue_s: float
    steps_lost_by_requeue: int
    steps_lost_by_kill: int
    plain_submit_s: float
    plain_requeue_s: float


Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Options:
    """Measure starts and interruptions on a devcluster."""

    rounds: int = 3
    """How often everything is done."""


class Bench:
    """A devcluster, the digits as betons, and what starts and watches jobs."""

    def __init__(self, cluster: DevCluster, folder: Path) -> None:
        self.cluster, self.folder = cluster, folder
        self.environment = os.environ | cluster.environment | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        for split in ("train", "val"):
            self.command("dataprep/write_ffcv.py", "digits", "--out", str(folder), "--split", split)

    def command(self, *arguments: str) -> None:
        """Run one of the suite's commands."""
        done = subprocess.run(
            [sys.executable, *arguments], cwd=ROOT, env=self.environment, capture_output=True, text=True
        )
        if done.returncode:
            raise SystemExit(f"{' '.join(arguments)} failed:\n{done.stdout}{done.stderr}")

    def submit(self, run: Path) -> tuple[str, float]:
        """Submit a run; its id, and when sbatch had returned."""
        data = {"--data.train": str(self.folder / "train.beton"), "--data.val": str(self.folder / "val.beton")}
        options = OPTIONS | data | {"--run": str(run)}
        self.command("jobs/pretrain.py", *[part for pair in options.items() for part in pair])
        submitted = chain.read_jobs(run)["pretrain"]
        return submitted.job_id, submitted.submitted

    def submit_plain(self, stamps: Path) -> tuple[str, float]:
        """Submit a job that only says when it starts; its id, and when sbatch had returned."""
        script = stamps.with_suffix(".sh")
        script.write_text(PLAIN)
        flags = [f"--nodes={NUM_NODES}", f"--output={stamps}", "--open-mode=append", "--gpus-per-node=1"]
        return self.cluster.call("sbatch", "--parsable", *flags, str(script)).strip(), time.time()

    def round(self, number: int) -> Measured:
        """Everything once."""
        run, stamps = self.folder / f"run_{number}", self.folder / f"plain_{number}.log"
        plain_id, plain_submitted = self.submit_plain(stamps)
        plain_started = _started(stamps, 0)
        job_id, submitted = self.submit(run)
        first, _ = _first_step(run, 0)
        steps = STEPS_BEFORE_INTERRUPTION + 3 * number
        _await_progress(run, steps)

        requeued = time.time()
        self.cluster.call("scontrol", "requeue", job_id)
        plain_requeued = time.time()
        self.cluster.call("scontrol", "requeue", plain_id)
        done, saved = _state_left(run, 1)
        again, resumed = _first_step(run, 1)
        lost_by_requeue = done - resumed
        plain_restarted = _started(stamps, NUM_NODES)
        _await_progress(run, resumed + steps)

        kills: list[tuple[float, int]] = []  # in place as often as the profile has it, then by the queue
        for start in range(2, 5):
            killed = time.time()
            os.kill(ranks(job_id)[0], signal.SIGKILL)  # which saves the checkpoints
            done_before_kill, _ = _state_left(run, start)
            after_kill, resumed = _first_step(run, start)
            kills.append((after_kill - killed, done_before_kill - resumed))
            if start < 4:
                _await_progress(run, resumed + steps)
        self.cluster.call("scancel", job_id, plain_id)
        past = attempts.read(chain.job_folder(run, "pretrain"))
        return Measured(
            submit_s=first - submitted,
            checkpoint_s=saved - requeued,
            requeue_s=again - requeued,
            kill_s=kills[0][0],
            kill_and_requeue_s=kills[2][0],
            slurm_submit_s=past[0].started - submitted,
            slurm_requeue_s=past[1].started - past[0].ended,
            slurm_kill_s=past[2].started - past[1].ended,
            slurm_kill_and_requeue_s=past[4].started - past[3].ended,
            steps_lost_by_requeue=lost_by_requeue,
            steps_lost_by_kill=max(lost for _, lost in kills),
            plain_submit_s=plain_started - plain_submitted,
            plain_requeue_s=plain_restarted - plain_requeued,
        )


def _await(what: str, answer: Callable[[], Answer | None]) -> Answer:
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        found = answer()
        if found is not None:
            return found
        time.sleep(POLL_S)
    raise TimeoutError(f"{what}: not within {TIMEOUT_S:.0f} s")


def _started(stamps: Path, before: int) -> float:
    """When a plain job started, by its own clock, if `before` lines were there already."""

    def answer() -> float | None:
        lines = stamps.read_text().splitlines() if stamps.exists() else []
        times = [float(line) for line in lines if line.replace(".", "").isdigit()]
        return times[before] if len(times) > before else None

    return _await("the start of a plain job", answer)


def _first_step(run: Path, number: int) -> tuple[float, int]:
    """When the first step of an attempt was done, and how many steps were done before it."""
    job = chain.job_folder(run, "pretrain")

    def answer() -> tuple[float, int] | None:
        started = [attempt.started for attempt in attempts.read(job)][number:]
        beat = attempts.read_heartbeat(job)
        return (beat.time, beat.progress - 1) if started and beat and beat.time > started[0] else None

    return _await(f"the first step of attempt {number}", answer)


def _logged_steps(run: Path) -> int:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return int(json.loads(lines[-1])["step"]) + 1 if lines else 0


def _await_progress(run: Path, steps: int) -> None:
    _await(f"{steps} steps", lambda: True if _logged_steps(run) >= steps else None)


def _state_left(run: Path, number: int) -> tuple[int, float]:
    """What an attempt finds when it begins: how many steps had been done, and when the newest checkpoint was there."""
    job = chain.job_folder(run, "pretrain")

    def answer() -> tuple[int, float] | None:
        if len(attempts.read(job)) <= number:
            return None
        return _logged_steps(run), checkpoint.list_checkpoints(run / CHECKPOINTS)[-1].stat().st_ctime

    return _await(f"attempt {number}", answer)


def show(rounds: list[Measured], console: Console) -> None:
    """One table: medians, beside a plain job's."""

    def median(name: str) -> float:
        return float(statistics.median(getattr(measured, name) for measured in rounds))

    def lost(name: str) -> str:
        return ", ".join(str(getattr(measured, name)) for measured in rounds)

    table = Table(title=f"digits on {NUM_NODES} nodes with one rank each, median of {len(rounds)}")
    for heading in ("", "in all", "in SLURM", "in the suite", "plain job", "ratio"):
        table.add_column(heading, justify="right" if heading else "left")
    for what, name, plain_name in (
        ("submit to first step", "submit_s", "plain_submit_s"),
        ("requeue to next step", "requeue_s", "plain_requeue_s"),
        ("kill -9 to next step, in place", "kill_s", "plain_requeue_s"),
        ("kill -9 to next step, requeued", "kill_and_requeue_s", "plain_requeue_s"),
    ):
        times = [median(each) for each in (name, f"slurm_{name}", plain_name)]
        own = statistics.median(getattr(each, name) - getattr(each, f"slurm_{name}") for each in rounds)
        cells = [f"{number:.1f} s" for number in (*times[:2], own, times[2])]
        table.add_row(what, *cells, f"{times[0] / times[2]:.1f}")
    table.add_row("requeue to checkpoint", f"{median('checkpoint_s'):.2f} s")
    table.add_section()
    table.add_row("steps lost by requeue", lost("steps_lost_by_requeue"))
    table.add_row("steps lost by kill -9", lost("steps_lost_by_kill"))
    console.print(table)
    interval = f"at most {CHECKPOINT_EVERY_STEPS} by kill -9, the checkpoint interval"
    console.print("Submit: from when sbatch has returned. In SLURM: until the batch step begins.")
    console.print(f"Steps lost in each round; targets: 0 by a requeue, {interval}.")


def machine(cluster: DevCluster) -> str:
    """What the numbers depend on."""
    slurm = cluster.call("sinfo", "--version").strip()
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, {slurm}"
    return f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} before; {platform.machine()}; {versions}"


def main() -> None:
    """Print the table; nothing is left behind."""
    options = tyro.cli(Options)
    console = Console()
    with tempfile.TemporaryDirectory(prefix="cluster-bench-") as folder:
        cluster = DevCluster(Path(folder) / "cluster")
        facts = ""
        try:
            cluster.up(NUM_NODES, 2)
            facts = machine(cluster)
            bench = Bench(cluster, Path(folder))
            rounds = [bench.round(number) for number in range(options.rounds)]
        finally:
            cluster.down()
    console.print(facts)
    show(rounds, console)


if __name__ == "__main__":
    main()
