"""The batch step with ranks that really run: its srun is a stand-in that starts them here, its scontrol is scripted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from slurm import attempts
from slurm.attempts import Attempt
from slurm.task import JobSpec
from tests.slurm.conftest import FakeSlurm

ROOT = Path(__file__).parents[2]
FUNCTIONS = "tests.slurm.job_functions"
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


class Job:
    """A job of two nodes with one rank each, and its batch step."""

    def __init__(self, slurm: FakeSlurm, folder: Path) -> None:
        self.slurm, self.folder = slurm, folder
        srun = slurm.folder / "bin" / "srun"
        srun.write_text(SRUN.format(python=sys.executable))
        srun.chmod(0o755)

    def start(
        self, function: str, restart: int = 0, max_failures: int = 3, **arguments: object
    ) -> subprocess.Popen[str]:
        """Start the batch step as the script does."""
        JobSpec("job", f"{FUNCTIONS}.{function}", arguments, num_nodes=2, max_failures=max_failures).write(self.folder)
        variables = {"SLURM_JOB_ID": "17", "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_RESTART_COUNT": str(restart)}
        variables |= {"SLURM_JOB_PARTITION": "normal", "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-u", "-m", "slurm.batch", str(self.folder)]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, env=os.environ | variables, stdout=pipe, stderr=subprocess.STDOUT, text=True)

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
        process.kill()
    return process.returncode, said


@pytest.fixture
def job(slurm: FakeSlurm, tmp_path: Path) -> Job:
    """A job on a SLURM that lets it run."""
    slurm.says("scontrol show job 17", RUNNING + "ExcNodeList=(null) ")
    slurm.says("scontrol")
    slurm.says("sinfo", "normal*|7-00:00:00|4|gpu:2|256000\n")
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


def test_a_bad_node_stays_where_too_few_others_are(job: Job, slurm: FakeSlurm) -> None:
    slurm.says("sinfo", "normal*|7-00:00:00|2|gpu:2|256000\n")
    for restart in range(2):
        _, said = job.run("fail", restart, on_rank=1)
    assert "n2 failed twice, but too few other nodes are left" in said
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
    assert (job.last().outcome, job.last().reason) == ("failed", "rank 0 on n1: ValueError: no such data")


def test_a_scheduler_that_refuses_leaves_a_record(job: Job, slurm: FakeSlurm) -> None:
    slurm.says("scontrol", error="Unable to contact slurm controller (connect failure)\n", code=1)
    slurm.says("scontrol show job 17", error="Unable to contact slurm controller (connect failure)\n", code=1)
    code, said = job.run("fail", on_rank=0)
    assert code == 1
    assert "the scheduler does not answer: scontrol show job 17: Unable to contact slurm controller" in said
    assert "the same command goes on from the last checkpoint" in said
    assert job.last().outcome == "failed"


def _await_ranks(folder: Path, process: subprocess.Popen[str]) -> None:
    while len(list(folder.glob("waits_*"))) < 2 and process.poll() is None:
        time.sleep(0.01)


def _signal_ranks(job: Job, number: signal.Signals) -> None:
    """What SLURM does when a job is to end: the signal goes to the processes of the steps."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if b"slurm.task" in command and str(job.folder).encode() in command and b"--ntasks" not in command:
            os.kill(int(folder.name), number)


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
    process.send_signal(signal.SIGTERM)
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
    process.kill()
    _signal_ranks(job, signal.SIGKILL)
    process.communicate()
    assert job.last().outcome == "running"
    assert job.run("tell", 1, folder=str(tmp_path))[0] == 0
    assert [attempt.outcome for attempt in attempts.read(job.folder)] == ["stopped", "finished"]
    assert attempts.read(job.folder)[0].reason.startswith("ended without a word")
