"""What is asked of SLURM, by its own commands: squeue, sacct, scontrol, scancel, sinfo, sbatch.

Output formats are given explicitly, nothing is parsed that is meant for people but `scontrol show job`, whose fields
are stable. Every call has a time limit.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

TIMEOUT_S = 60
LEFT_BY_A_JOB = ("SLURM_", "SLURMD_", "SRUN_", "PMI_", "PMIX_", "SUBMITIT_")
LEFT_BY_RANKS = ("MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
NOT_OF_THE_JOB = ("SLURM_CONF", "SLURM_TIME_FORMAT", "SLURM_CLUSTERS")


class SchedulerError(RuntimeError):
    """SLURM did not do what was asked; the message holds what it said."""


class Verdict(Enum):
    """What the scheduler has already decided about a job whose attempt is over, or is being ended."""

    RUNNING = "nothing: the job may go on"
    REQUEUED = "requeued by the scheduler: preemption, node failure or scontrol requeue"
    TIME_LIMIT = "the time limit came before all ranks had left"
    CANCELLED = "cancelled"


@dataclass(frozen=True)
class QueuedJob:
    """A job that squeue shows."""

    state: str
    nodes: str
    reason: str
    expected_start: str
    """Empty when the scheduler does not know it."""
    elapsed: str
    restarts: int


@dataclass(frozen=True)
class Partition:
    """A partition as sinfo shows it."""

    name: str
    is_default: bool
    time_limit_min: int
    """0: no limit."""
    num_nodes: int
    gpus_per_node: int
    memory_per_node_mb: int


def call(*command: str, environment: dict[str, str] | None = None) -> str:
    """Output of a command; SchedulerError with its own words when it fails."""
    done = _run(command, environment)
    if done.returncode:
        said = done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}"
        raise SchedulerError(f"{command[0]}: {said}")
    return done.stdout


def _run(command: Sequence[str], environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    if shutil.which(command[0]) is None:
        raise SchedulerError(f"{command[0]} is not on this machine's PATH; load SLURM's module, or use --cluster local")
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, env=environment)
    except subprocess.TimeoutExpired as error:
        raise SchedulerError(f"{command[0]} did not answer within {TIMEOUT_S} s") from error


def submit(script: Path) -> str:
    """Hand a script to sbatch; returns the job's id.

    Variables that describe a surrounding job are left out, so that a job may submit jobs.
    """
    return call("sbatch", "--parsable", str(script), environment=clean_environment()).strip().split(";")[0]


def file_name(path: Path) -> str:
    """The path as --output wants it, where %j and the like are replaced; ValueError for what SLURM cannot write to."""
    text = str(path)
    if not text.isprintable() or "\\" in text:
        raise ValueError(f"folder is {text!r}, allowed: a path without \\ and control characters; choose another --run")
    return text.replace("%", "%%")


def clean_environment() -> dict[str, str]:
    """The environment without what a surrounding job has put there."""
    if "SLURM_JOB_ID" not in os.environ:
        return dict(os.environ)
    left = {name for name in os.environ if name.startswith(LEFT_BY_A_JOB) and name not in NOT_OF_THE_JOB}
    left |= {*LEFT_BY_RANKS, "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS"}
    return {name: value for name, value in os.environ.items() if name not in left}


def queued(job_ids: Iterable[str]) -> dict[str, QueuedJob]:
    """Those of the jobs that squeue shows: waiting, running, ending."""
    wanted = set(job_ids)
    if not wanted:
        return {}
    form = "%i|%T|%N|%r|%S|%M"
    # A user's whole queue is asked for: squeue refuses a list that holds an id it has forgotten.
    lines = call("squeue", "--me", "--noheader", f"--format={form}").splitlines()
    found: dict[str, QueuedJob] = {}
    for line in lines:
        job_id, state, nodes, reason, start, elapsed = line.split("|")
        if job_id in wanted:
            found[job_id] = QueuedJob(state, nodes, reason, "" if start == "N/A" else start, elapsed, _restarts(job_id))
    return found


def accounted(job_ids: Iterable[str]) -> dict[str, str]:
    """State of the jobs by sacct (COMPLETED, CANCELLED by 0, ...); empty where accounting is not available."""
    ids = ",".join(job_ids)
    if not ids:
        return {}
    try:
        lines = call("sacct", "--noheader", "--parsable2", "-X", f"--jobs={ids}", "--format=JobID,State").splitlines()
    except SchedulerError:
        return {}
    return dict(line.split("|", 1) for line in lines if "|" in line)


def verdict(job_id: str, restart: int) -> Verdict:
    """What the scheduler has decided about a job that was started `restart` times before.

    While a job is being ended, its state is COMPLETING whatever the cause; the count of restarts and the reason tell.
    """
    shown = _show(job_id)
    state, reason = shown.get("JobState", ""), shown.get("Reason", "")
    if int(shown.get("Restarts", "0")) > restart or state == "PENDING":
        return Verdict.REQUEUED
    if state == "RUNNING":
        return Verdict.RUNNING
    return Verdict.TIME_LIMIT if "TimeLimit" in reason or state == "TIMEOUT" else Verdict.CANCELLED


def requeue(job_id: str, restart: int) -> None:
    """Send a running job back to the queue; the processes of its batch step get SIGTERM while this goes on."""
    _insist("scontrol", "requeue", job_id, unless=lambda: verdict(job_id, restart) is Verdict.REQUEUED)


def exclude_nodes(job_id: str, nodes: Iterable[str]) -> None:
    """Leave nodes out of a job's next start, besides those that it already leaves out."""
    before = _show(job_id).get("ExcNodeList", "(null)")
    listed = ",".join(nodes) if before == "(null)" else ",".join([before, *nodes])
    _insist("scontrol", "update", f"JobId={job_id}", f"ExcNodeList={listed}")


def cancel(job_ids: Iterable[str]) -> None:
    """Cancel jobs, waiting ones too."""
    call("scancel", *job_ids)


def host_names(node_list: str) -> tuple[str, ...]:
    """n[08-10],r[1-2]n1 -> n08, n09, n10, r1n1, r2n1, as `scontrol show hostnames` says.

    It is not asked: a compute node need not have it, and everything else in a job's life can do without.
    """
    entries: list[str] = re.findall(r"(?:[^,\[]|\[[^]]*\])+", node_list)
    return tuple(name for entry in entries for name in _expanded(entry))


def partitions() -> list[Partition]:
    """All partitions of the cluster."""
    found: dict[str, Partition] = {}
    for line in call("sinfo", "--all", "--noheader", "--format=%P|%l|%D|%G|%m").splitlines():
        name, limit, nodes, gres, memory = line.split("|")
        clean = name.rstrip("*")
        gpus = sum(int(number) for number in re.findall(r"gpu(?::[^:(,]+)?:(\d+)", gres))
        before = found.get(clean)
        found[clean] = Partition(
            clean,
            name.endswith("*"),
            _minutes(limit),
            int(nodes) + (before.num_nodes if before else 0),
            max(gpus, before.gpus_per_node if before else 0),
            max(int(memory.rstrip("+")), before.memory_per_node_mb if before else 0),
        )
    return list(found.values())


def _expanded(entry: str) -> list[str]:
    found = re.search(r"\[([^]]*)\]", entry)
    if not found:
        return [entry]
    numbers: list[str] = []
    for part in found[1].split(","):
        first, _, last = part.partition("-")
        numbers += [str(number).zfill(len(first)) for number in range(int(first), int(last or first) + 1)]
    rest = _expanded(entry[found.end() :])
    return [entry[: found.start()] + number + end for number in numbers for end in rest]


def _show(job_id: str) -> dict[str, str]:
    text = _insist("scontrol", "show", "job", job_id)
    return dict(re.findall(r"(\w+)=(\S*)", text))


def _restarts(job_id: str) -> int:
    try:
        return int(_show(job_id).get("Restarts", "0"))
    except SchedulerError:
        return 0


def _insist(*command: str, unless: Callable[[], bool] | None = None) -> str:
    """Call a command again when a signal that was meant for the job killed it, unless what it asked for is done."""
    for _ in range(5):
        done = _run(command)
        if done.returncode == 0:
            return done.stdout
        if unless and unless():
            return ""
        if done.returncode not in (-signal.SIGTERM, -signal.SIGCONT):
            break
    raise SchedulerError(f"{' '.join(command)}: {done.stderr.strip() or done.returncode}")


def _minutes(limit: str) -> int:
    """SLURM's D-HH:MM:SS, or infinite, in minutes."""
    if not re.fullmatch(r"[\d:-]+", limit):
        return 0
    days, _, clock = limit.rpartition("-")
    parts = [0, 0, *(int(part) for part in clock.split(":"))][-3:]
    return int(days or 0) * 1440 + parts[0] * 60 + parts[1]
