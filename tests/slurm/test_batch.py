"""The batch step with ranks that really run: its srun is a stand-in that starts them here, its scontrol is scripted."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from slurm import attempts, owner
from slurm.attempts import Attempt
from slurm.cluster import Cluster
from slurm.executor import sbatch_script
from slurm.task import JobSpec
from tests.slurm.conftest import FakeSlurm

ROOT = Path(__file__).parents[2]
FUNCTIONS = "tests.slurm.job_functions"
PATIENCE_S = 2.0
RUNNING, REQUEUED = "JobState=RUNNING Reason=None Restarts=0 ", "JobState=PENDING Reason=BeginTime Restarts=1 "
SRUN = """\
#!{python} -IS
import json, os, signal, subprocess, sys, time
options = dict(word[2:].split("=", 1) for word in sys.argv[1:] if word.startswith("--") and "=" in word)
command = sys.argv[1 + max(place for place, word in enumerate(sys.argv[1:]) if word.startswith("--")) + 1:]
hosts = json.loads(os.environ["VICREG_HOSTS"])
ranks = []
for rank in range(int(options["ntasks"])):
    node, local = divmod(rank, int(options["ntasks-per-node"]))
    names = dict(SLURM_PROCID=str(rank), SLURM_LOCALID=str(local), SLURMD_NODENAME=hosts[node])
    with open(options["output"].replace("%t", str(rank)), "a") as log:
        ranks.append(subprocess.Popen(command, env=dict(os.environ, **names), stdout=log, stderr=log))
signal.signal(signal.SIGTERM, lambda *_: [rank.terminate() for rank in ranks])
while not any(codes := [rank.poll() for rank in ranks]) and None in codes:
    time.sleep(0.01)
for rank, code in zip(ranks, codes):
    if code is None:
        rank.kill()  # --kill-on-bad-exit
for rank, code in enumerate(codes):
    how = "Terminated" if code is None else "Killed" if code == -9 else f"Exited with exit code {{code}}"
    if code != 0:
        node = hosts[rank // int(options["ntasks-per-node"])]
        print(f"srun: error: {{node}}: task {{rank}}: {{how}}", file=sys.stderr)
sys.exit(int(any(codes)))
"""
SMI = """\
#!/bin/sh
if [ $SLURMD_NODENAME = n2 ]; then echo "Unable to determine the device handle: GPU is lost"; exit 15; fi
echo "39000, 40000"
"""


class Job:
    """A job of two nodes with one rank each, and its batch step."""

    def __init__(self, slurm: FakeSlurm, folder: Path) -> None:
        self.slurm, self.folder, self.job_id = slurm, folder, "17"
        self.nodes, self.numbers = "n[1-2]", dict[str, Any]()
        srun = slurm.folder / "bin" / "srun"
        srun.write_text(SRUN.format(python=sys.executable))
        srun.chmod(0o755)

    def start(
        self, function: str, restart: int = 0, max_failures: int = 3, **arguments: object
    ) -> subprocess.Popen[str]:
        """Start the batch step as the script does."""
        numbers = {"max_failures": max_failures, "patience_s": PATIENCE_S, "restarts_in_place": 0} | self.numbers
        spec = JobSpec("job", f"{FUNCTIONS}.{function}", arguments, 2, **numbers)
        spec.write(self.folder)
        variables = {"SLURM_JOB_ID": self.job_id, "SLURM_JOB_NODELIST": self.nodes, "SLURM_RESTART_COUNT": str(restart)}
        variables |= {"SLURM_JOB_PARTITION": "normal", "PYTHONPATH": str(ROOT)}
        script = self.folder / "sbatch.sh"
        script.write_text(sbatch_script(spec, self.folder, Cluster("mine")))
        return subprocess.Popen(
            ["/bin/bash", script],
            env=os.environ | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, function: str, restart: int = 0, max_failures: int = 3, **arguments: object) -> tuple[int, str]:
        """Run the batch step to its end; its exit code and log."""
        return _end(self.start(function, restart, max_failures, **arguments))

    def last(self) -> Attempt:
        """The latest attempt."""
        return attempts.read(self.folder)[-1]

    def asked(self) -> list[str]:
        """What scontrol was asked to do, questions left out."""
        calls = [call.command[1:] for call in self.slurm.calls("scontrol")]
        return [" ".join(call) for call in calls if call[0] != "show"]


def _end(process: subprocess.Popen[str]) -> tuple[int, str]:
    try:
        said, _ = process.communicate(timeout=60)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    return process.returncode, said


@pytest.fixture
def job(slurm: FakeSlurm, tmp_path: Path) -> Job:
    """A job on a SLURM that lets it run."""
    slurm.says("scontrol show job 17", RUNNING + "ExcNodeList=(null) ")
    slurm.says("scontrol")
    slurm.says("sinfo --Node", "n1|idle\nn2|mixed\nn3|idle\nn4|allocated\n")
    return Job(slurm, tmp_path / "job")


def test_a_job_that_finishes(job: Job, tmp_path: Path) -> None:
    code, said = job.run("tell", folder=str(tmp_path))
    assert code == 0, said
    assert (job.last().outcome, job.last().nodes, job.last().reason) == ("finished", ("n1", "n2"), "")
    assert len(list(tmp_path.glob("told_*.json"))) == 2
    assert job.asked() == []
    assert not list(job.folder.glob("start_*"))


def test_a_failure_is_tried_again_until_the_limit_and_a_bad_node_left_out(job: Job) -> None:
    for restart in range(2):
        assert job.run("fail", restart, on_rank=1)[0] == 0
        assert (job.last().outcome, job.last().failed_node) == ("failed", "n2")
        assert job.last().reason == "rank 1 on n2: ValueError: no such data"
    assert job.asked() == ["requeue 17", "requeue 17", "update JobId=17 ExcNodeList=n2"]
    code, said = job.run("fail", 2, on_rank=1)
    assert code == 1
    assert "given up: 3 failures in a row without getting further" in said
    assert len(job.asked()) == 3


def test_a_failure_that_would_be_the_same_again_is_the_last(job: Job) -> None:
    code, said = job.run("fail_hopelessly")
    assert code == 1
    assert (job.last().outcome, job.last().hopeless) == ("failed", True)
    assert job.last().reason == "rank 1 on n2: train.beton: sample 3 cannot be used"
    assert "given up: it would fail in the same way again" in said
    assert job.asked() == []


def test_a_bad_node_stays_where_too_few_others_are(job: Job, slurm: FakeSlurm) -> None:
    slurm.says("sinfo --Node", "n1|idle\nn2|mixed\nn3|down*\nn4|drained\n")
    for restart in range(2):
        _, said = job.run("fail", restart, on_rank=1)
    assert "n2 failed, but too few other nodes are left" in said
    assert job.asked() == ["requeue 17", "requeue 17"]


def test_a_killed_rank_is_named(job: Job) -> None:
    assert job.run("kill_itself", on_rank=1)[0] == 0
    assert (job.last().outcome, job.last().reason, job.last().failed_node) == ("failed", "rank 1 on n2: Killed", "n2")


def test_without_scontrol_on_the_node_a_job_runs_and_fails_with_a_record(job: Job, tmp_path: Path) -> None:
    (job.slurm.folder / "bin" / "scontrol").unlink()
    code, said = job.run("tell", folder=str(tmp_path))
    assert (code, job.last().outcome) == (0, "finished")
    assert "scontrol is not on this node's PATH: the job cannot send itself back to the queue" in said
    code, said = job.run("fail", 1, on_rank=0)
    assert code == 1
    assert "cannot requeue (scontrol is not on this machine's PATH" in said
    assert job.last().outcome == "failed"
    reason = "rank 0 on n1: ValueError: no such data; it could not be sent back to the queue: scontrol is not on this"
    assert job.last().reason.startswith(reason)


def test_a_scheduler_that_refuses_leaves_a_record(job: Job, slurm: FakeSlurm) -> None:
    slurm.says("scontrol", error="Unable to contact slurm controller (connect failure)\n", code=1)
    slurm.says("scontrol show job 17", error="Unable to contact slurm controller (connect failure)\n", code=1)
    code, said = job.run("fail", on_rank=0)
    assert code == 1
    assert "the scheduler does not answer: scontrol show job 17: Unable to contact slurm controller" in said
    assert "the same command goes on from the last checkpoint" in said
    assert job.last().outcome == "failed"
    assert "it could not be sent back to the queue: scontrol" in job.last().reason


def _told(job: Job) -> list[tuple[int, str, tuple[str, ...], str]]:
    return [(attempt.start, attempt.outcome, attempt.nodes, attempt.reason) for attempt in attempts.read(job.folder)]


def test_ranks_are_started_anew_where_they_are_before_the_job_goes_back(job: Job) -> None:
    job.numbers = {"restarts_in_place": 2}
    code, said = job.run("fail_at_first", times=2, on_rank=1)
    assert code == 0, said
    where = ("n1", "n2")
    assert _told(job) == [
        (0, "failed", where, "rank 1 on n2: ValueError: failure 1"),
        (1, "failed", where, "rank 1 on n2: ValueError: failure 2"),
        (2, "finished", where, ""),
    ]
    assert job.asked() == []
    assert not list(job.folder.glob("start_*"))


def test_what_fails_again_in_the_same_way_does_not_stay(job: Job) -> None:
    """No step was made: two starts here, then other nodes; and three failures in a row are the end, as ever."""
    job.numbers = {"restarts_in_place": 9}
    assert job.run("fail", on_rank=1)[0] == 0
    assert [told[:2] for told in _told(job)] == [(0, "failed"), (1, "failed")]
    assert job.asked() == ["requeue 17", "update JobId=17 ExcNodeList=n2"]
    assert job.run("fail", 1, on_rank=1)[0] == 1
    assert [told[:2] for told in _told(job)] == [(0, "failed"), (1, "failed"), (0, "failed")]


@pytest.mark.parametrize("how", ["fails", "cannot take part"])
def test_a_spare_node_takes_the_place_of_a_bad_one(job: Job, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    job.nodes, job.numbers = "n[1-3]", {"restarts_in_place": 1, "spare_nodes": 1}
    if how == "cannot take part":
        _lose_gpu_of_n2(job, monkeypatch)
    code, said = job.run("fail_on", node="n2")
    assert code == 0, said
    (_, first, nodes, reason), (_, last, others, _) = _told(job)
    assert (first, nodes, last, others) == ("failed", ("n1", "n2"), "finished", ("n1", "n3"))
    assert (
        reason
        == {
            "fails": "rank 1 on n2: ValueError: this node is broken",
            "cannot take part": "n2 cannot take part: 0 of 1 GPUs answer (nvidia-smi: Unable to determine the device "
            "handle: GPU is lost)",
        }[how]
    )
    assert job.asked() == []


def test_a_node_that_cannot_take_part_is_left_out_at_once(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    job.numbers = {"restarts_in_place": 2}
    _lose_gpu_of_n2(job, monkeypatch)
    assert job.run("fail_on", node="n2")[0] == 0
    assert [told[:3] for told in _told(job)] == [(0, "failed", ("n1", "n2"))]
    assert job.asked() == ["requeue 17", "update JobId=17 ExcNodeList=n2"]


def _lose_gpu_of_n2(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    program = job.slurm.folder / "bin" / "nvidia-smi"
    program.write_text(SMI)
    program.chmod(0o755)
    monkeypatch.setenv("SLURM_JOB_GPUS", "0")


BUSY = "slurm_load_jobs error: Socket timed out on send/recv operation\n"


def test_a_busy_scheduler_costs_no_job(job: Job, slurm: FakeSlurm) -> None:
    """Whoever looks meanwhile is told; the requeue itself comes through."""
    slurm.says("scontrol requeue", error=BUSY, code=1)
    slurm.says("scontrol requeue", after=1)
    process = job.start("fail", on_rank=1)
    told = ""
    while process.poll() is None:
        past = attempts.read(job.folder)
        told = told or next((attempt.reason for attempt in past if "waits for" in attempt.reason), "")
        time.sleep(0.01)
    code, said = _end(process)
    assert code == 0, said
    assert told.startswith(
        "rank 1 on n2: ValueError: no such data; waits for an answer of SLURM: scontrol requeue 17: "
    )
    assert (job.last().outcome, job.last().reason) == ("failed", "rank 1 on n2: ValueError: no such data")
    assert job.asked() == ["requeue 17", "requeue 17"]


def test_what_is_submitted_anew_has_all_its_tries_and_all_nodes_again(job: Job) -> None:
    for restart in range(3):
        code, said = job.run("fail", restart, on_rank=1)
    assert (code, "given up: 3 failures" in said) == (1, True)
    for job.job_id in ("18", "18", "17"):  # 17: a cluster that was set up anew begins to count again
        job.slurm.says(f"scontrol show job {job.job_id}", RUNNING + "ExcNodeList=(null) ")
        before = job.asked()
        code, said = job.run("fail", 0, on_rank=1)
        assert code == 0, said
        assert job.asked()[len(before) :] == [f"requeue {job.job_id}"]


@pytest.mark.parametrize("max_failures", [3, 1])
def test_a_batch_step_that_is_killed_is_a_failure_like_any_other(
    job: Job, slurm: FakeSlurm, tmp_path: Path, max_failures: int
) -> None:
    process = job.start("stop_late", max_failures=max_failures, folder=str(tmp_path), how="well")
    _await_ranks(tmp_path, process)
    killed = _processes("batch.py", job.folder)
    assert len(killed) == 1
    os.kill(killed[0], signal.SIGKILL)
    while not job.last().ended:
        time.sleep(0.01)
    _signal_ranks(job, signal.SIGTERM)  # SLURM does, for the requeue or when the script ends
    code, said = _end(process)
    assert code == (0 if max_failures == 3 else 1), said
    assert (job.last().outcome, job.last().reason) == ("failed", "the batch step on n1 was killed by SIGKILL")
    assert job.asked() == (["requeue 17"] if max_failures == 3 else [])
    assert ("given up: 1 failures" in said) == (max_failures == 1)


@pytest.mark.parametrize("max_failures", [3, 1])
def test_when_everything_of_the_batch_step_is_killed_the_ranks_see_to_the_requeue(
    job: Job, slurm: FakeSlurm, tmp_path: Path, max_failures: int
) -> None:
    process = job.start("stop_late", max_failures=max_failures, folder=str(tmp_path), how="well")
    _await_ranks(tmp_path, process)
    slurm.says("scontrol show job 17", "JobState=COMPLETING Reason=JobLaunchFailure Restarts=0 ExcNodeList=(null) ")
    os.killpg(process.pid, signal.SIGSTOP)  # none of them may see the others die
    for pid in (process.pid, *_processes("batch.py", job.folder), *_processes("srun", job.folder)):
        os.kill(pid, signal.SIGKILL)
    os.killpg(process.pid, signal.SIGCONT)
    _signal_ranks(job, signal.SIGTERM)
    while _processes("task.py", job.folder) or _processes("batch.py", job.folder):
        time.sleep(0.01)
    _end(process)
    (last,) = attempts.read(job.folder)
    assert (last.outcome, last.reason) == ("failed", "the batch step on n1 was killed by SIGKILL")
    assert job.asked() == (["requeue 17"] if max_failures == 3 else [])


def test_a_batch_step_that_fails_itself_is_one_too(job: Job, tmp_path: Path) -> None:
    job.folder.mkdir()
    (job.folder / "attempts.jsonl").mkdir()
    code, said = job.run("tell", folder=str(tmp_path))
    assert code == 1  # nothing can be recorded: given up, in words
    assert "Is a directory" in said


def test_an_attempt_whose_nodes_were_taken_for_dead_leaves_when_the_next_begins(job: Job, tmp_path: Path) -> None:
    """Its node lives, and its scheduler does not answer: it must neither go on nor send the job back."""
    process = job.start("stop_late", folder=str(tmp_path), how="well")
    _await_ranks(tmp_path, process)
    job.slurm.says("scontrol show job 17", error=BUSY, code=1)
    second = owner.claim(job.folder, "job 17, attempt 2", take_over=True)
    code, said = _end(process)
    assert code == 1
    assert "another attempt has taken over" in said
    assert (job.last().outcome, job.asked()) == ("stopped", [])
    assert "has been taken over by job 17, attempt 2 on" in (job.folder / "rank_0.log").read_text()
    while _processes("task.py", job.folder):
        time.sleep(0.01)
    second.require()


def _await_ranks(folder: Path, process: subprocess.Popen[str]) -> None:
    while len(list(folder.glob("waits_*"))) < 2 and process.poll() is None:
        time.sleep(0.01)


def _signal_ranks(job: Job, number: signal.Signals) -> None:
    """What SLURM does when a job is to end: the signal goes to the processes of the steps."""
    for process in _processes("task.py", job.folder):
        os.kill(process, number)


def _signal_batch(job: Job, process: subprocess.Popen[str], number: signal.Signals) -> None:
    """The same for the batch step: its shell and what the shell has started."""
    for pid in (process.pid, *_processes("batch.py", job.folder)):
        os.kill(pid, number)


def _processes(program: str, job: Path) -> list[int]:
    """The processes of a job that run a program of the package."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().decode().split("\0")
        except OSError:
            continue
        if str(ROOT / "slurm" / program) in words and str(job) in words and words[1] == "-u":
            found.append(int(folder.name))
    return found


def test_a_job_asked_to_stop_goes_back_to_the_queue(job: Job, tmp_path: Path) -> None:
    process = job.start("stop_late", folder=str(tmp_path), how="well")
    _await_ranks(tmp_path, process)
    _signal_ranks(job, signal.SIGUSR2)
    assert _end(process)[0] == 0
    assert (job.last().outcome, job.last().reason) == (
        "stopped",
        "asked to stop by SIGUSR2 (preempted, or near the time limit)",
    )
    assert job.asked() == ["requeue 17"]


@pytest.mark.parametrize(
    ("shown", "code", "outcome", "asked"),
    [
        (REQUEUED, 0, "stopped", []),
        ("JobState=COMPLETING Reason=None Restarts=0 ", 1, "cancelled", []),
        ("JobState=COMPLETING Reason=TimeLimit Restarts=0 ", 0, "failed", ["requeue 17"]),
    ],
)
def test_when_slurm_ends_an_attempt_all_ranks_leave_first(
    job: Job, slurm: FakeSlurm, tmp_path: Path, shown: str, code: int, outcome: str, asked: list[str]
) -> None:
    process = job.start("stop_late", folder=str(tmp_path), how="well")
    _await_ranks(tmp_path, process)
    slurm.says("scontrol show job 17", shown)
    _signal_batch(job, process, signal.SIGTERM)
    while not job.last().ended:
        time.sleep(0.01)
    assert process.poll() is None  # the ranks are still there
    _signal_ranks(job, signal.SIGTERM)
    assert _end(process)[0] == code
    assert (job.last().outcome, job.asked()) == (outcome, asked)
    assert len(list(job.folder.glob("start_*/left_*"))) == 2


def test_an_attempt_that_was_killed_without_a_word_is_closed_by_the_next(job: Job, tmp_path: Path) -> None:
    process = job.start("stop_late", folder=str(tmp_path), how="well")
    _await_ranks(tmp_path, process)
    _signal_batch(job, process, signal.SIGKILL)
    _signal_ranks(job, signal.SIGKILL)
    process.communicate()
    assert job.last().outcome == "running"
    assert job.run("tell", 1, folder=str(tmp_path))[0] == 0
    assert [attempt.outcome for attempt in attempts.read(job.folder)] == ["stopped", "finished"]
    assert attempts.read(job.folder)[0].reason.startswith("ended without a word")
