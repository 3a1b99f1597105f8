"""What goes wrong on a cluster, on a real SLURM of four nodes: jobs that only count, and no count may be lost."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

from drills.cluster_runs import Runs, outcomes, ranks, wait_for
from drills.faults import batch_step, kill_all_of_batch_step, silent_controller
from drills.tally import Drill
from slurm import attempts
from slurm.devcluster import processes
from slurm.devcluster.daemons import DevCluster

BUSY = "slurm_load_jobs error: Socket timed out on send/recv operation"
PREEMPTING = ("--partition=normal", "--nodes=4", "--exclusive", "--wrap=sleep 1", "--output=/dev/null")


def drills(cluster: DevCluster) -> Sequence[Drill]:
    """All of this family, on a cluster that is up."""

    def on(what: Callable[[Runs], None]) -> Drill:
        def attempt(_: int, folder: Path) -> None:
            try:
                what(Runs(cluster, folder))
            finally:
                cluster.call("scancel", f"--user={os.environ.get('USER', 'root')}", check=False)

        return Drill(what.__name__.replace("_", " "), attempt)

    return [on(what) for what in ALL]


def a_killed_rank(runs: Runs) -> None:
    """The ranks are started anew where they are."""
    job, job_id = runs.submit("count", steps=120, num_nodes=2, ranks_per_node=2)
    runs.await_attempt(job, 0, 10)
    os.kill(ranks(job_id)[3], signal.SIGKILL)
    assert runs.await_over(job_id) == "COMPLETED"
    first, second = attempts.read(job)
    assert (first.outcome, second.outcome, second.restart, second.start) == ("failed", "finished", 0, 1)
    assert "Killed" in first.reason


def a_killed_batch_step(runs: Runs) -> None:
    """Its shell takes its place, and the ranks save."""
    job, job_id = runs.submit("count", steps=120, num_nodes=2, ranks_per_node=2)
    runs.await_attempt(job, 0, 10)
    os.kill(batch_step(job), signal.SIGKILL)
    _require_tried_again(runs, job, job_id)


def everything_of_the_batch_step_killed(runs: Runs) -> None:
    """A rank takes its place."""
    job, job_id = runs.submit("count", steps=120, num_nodes=2, ranks_per_node=2)
    runs.await_attempt(job, 0, 10)
    kill_all_of_batch_step(job)
    _require_tried_again(runs, job, job_id)


def _require_tried_again(runs: Runs, job: Path, job_id: str) -> None:
    assert runs.await_over(job_id, 180) == "COMPLETED"
    first, second = attempts.read(job)
    assert (first.outcome, second.outcome, second.restart) == ("failed", "finished", 1)
    assert first.reason == f"the batch step on {first.nodes[0]} was killed by SIGKILL"
    assert first.progress > 0
    assert {(job / f"count_{rank}").read_text() for rank in range(4)} == {"120"}


def a_busy_scheduler(runs: Runs) -> None:
    """The job's own scontrol answers for a while as a real one does that gets no answer; srun needs none."""
    folder = runs.folder / "bin"
    folder.mkdir()
    (folder / "busy").touch()
    (folder / "scontrol").write_text(
        f'#!/bin/sh\necho "$1" >> {folder}/calls\n'
        f'if [ -e {folder}/busy ]; then echo "{BUSY}" >&2; exit 1; fi\n'
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
    (folder / "busy").unlink()
    assert runs.await_over(job_id, 180) == "COMPLETED"
    assert (outcomes(job)[0], outcomes(job)[-1]) == ("failed", "finished")
    assert "Killed" in attempts.read(job)[0].reason
    assert "requeue" in (folder / "calls").read_text().split()


def a_silent_controller(runs: Runs) -> None:
    """slurmctld says nothing for 20 seconds, in which a rank dies."""
    job, job_id = runs.submit("count", steps=600, num_nodes=2, ranks_per_node=1)
    runs.await_attempt(job, 0, 10)
    with silent_controller(runs.cluster):
        os.kill(ranks(job_id)[1], signal.SIGKILL)
        time.sleep(20)
    assert runs.await_over(job_id, 180) == "COMPLETED"
    assert (outcomes(job)[0], outcomes(job)[-1]) == ("failed", "finished")


def a_lost_node(runs: Runs) -> None:
    """What a power cut does to one of two; the scheduler sends the job back by itself."""
    job, job_id = runs.submit("count", steps=800, num_nodes=2, ranks_per_node=2)
    lost = runs.await_attempt(job, 0, 10).nodes[-1]
    _lose(runs, lost, job_id)
    assert outcomes(job)[-1] == "finished"
    assert len(outcomes(job)) >= 2


def a_bad_node_with_a_spare_one(runs: Runs) -> None:
    """The job stays, and the spare node takes the place."""
    job, job_id = runs.submit("fail_on_node", node="n1", num_nodes=2, ranks_per_node=1, spare_nodes=1)
    assert runs.await_over(job_id) == "COMPLETED"
    first, second = attempts.read(job)
    assert (first.outcome, second.outcome, second.restart, second.start) == ("failed", "finished", 0, 1)
    assert (first.failed_node, first.nodes, second.nodes) == ("n1", ("n1", "n2"), ("n2", "n3"))


def _lose(runs: Runs, node: str, job_id: str) -> None:
    runs.cluster.kill_node(node)
    try:
        assert runs.await_over(job_id, 240) == "COMPLETED"
    finally:
        runs.cluster.start_node(node)
        wait_for(f"{node} to come back", lambda: "idle" in _state(runs, node), 60)


def _state(runs: Runs, node: str) -> str:
    return runs.cluster.call("sinfo", "--noheader", "--partition=normal", f"--nodes={node}", "--format=%T")


def two_writers(runs: Runs) -> None:
    """The slurmd dies, the node lives: SLURM starts the job elsewhere while the old ranks count on."""
    job, job_id = runs.submit("count_on", steps=1200, num_nodes=1, ranks_per_node=2)
    node = runs.await_attempt(job, 0, 10).nodes[0]
    old = ranks(job_id)
    os.kill(runs.cluster.pids[node], signal.SIGKILL)
    runs.await_attempt(job, 1, 1, 120)
    wait_for("the end of the old ranks", lambda: not any(map(processes.alive, old.values())), 10)
    runs.cluster.start_node(node)
    lines = [line.split() for line in (job / "counted").read_text().splitlines()]
    changes = [number for number, (one, other) in enumerate(pairwise(lines)) if one[0] != other[0]]
    assert len(changes) == 1, "both attempts counted at the same time"
    runs.cluster.call("scancel", job_id)
    runs.await_over(job_id)


def preemption(runs: Runs) -> None:
    """A job of the other partition takes the nodes; none of the steps is done twice."""
    profile = {"partition": "low"}
    job, job_id = runs.submit("count", steps=150, num_nodes=2, ranks_per_node=2, profile=profile)
    runs.await_attempt(job, 0, 10)
    runs.cluster.call("sbatch", *PREEMPTING)
    assert runs.await_over(job_id, 180) == "COMPLETED"
    first, second = attempts.read(job)
    assert (first.outcome, second.outcome) == ("stopped", "finished")
    assert {(job / f"count_{rank}").read_text() for rank in range(4)} == {"150"}


def a_requeue_by_the_operator(runs: Runs) -> None:
    """scontrol requeue: no step is lost."""
    job, job_id = runs.submit("count", steps=120, num_nodes=2, ranks_per_node=2)
    runs.await_attempt(job, 0, 20)
    runs.cluster.call("scontrol", "requeue", job_id)
    assert runs.await_over(job_id) == "COMPLETED"
    first, second = attempts.read(job)
    assert (first.outcome, second.outcome) == ("stopped", "finished")
    assert "scontrol requeue" in first.reason
    assert {(job / f"count_{rank}").read_text() for rank in range(4)} == {"120"}


ALL: tuple[Callable[[Runs], None], ...] = (
    a_killed_rank,
    a_killed_batch_step,
    everything_of_the_batch_step_killed,
    a_busy_scheduler,
    a_silent_controller,
    a_lost_node,
    a_bad_node_with_a_spare_one,
    two_writers,
    preemption,
    a_requeue_by_the_operator,
)
