"""What is asked of SLURM, by its own commands: squeue, sacct, scontrol, scancel, sinfo, sbatch.

Output formats are given explicitly, nothing is parsed that is meant for people but `scontrol show job`, whose fields
are stable. How a command is called, and how often, stands in slurm/calls.py.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from slurm.calls import Patience, SchedulerError, ask, call, clean_environment, table

log = logging.getLogger(__name__)

WAITING = "PENDING"
BRIEFLY = Patience(5.0)  # while the ranks run, or where it is not worth waiting
BATCH_FAILURES = ("NonZeroExitCode", "JobLaunchFailure", "RaisedSignal")  # beginnings of reasons
NONE = "(null)"  # as scontrol says it
UNUSABLE = ("down", "drain", "fail", "maint", "unknown", "inval", "error", "future")  # beginnings of nodes' states


class Verdict(Enum):
    """What the scheduler has already decided about a job whose attempt is over, or is being ended."""

    RUNNING = "nothing: the job may go on"
    REQUEUED = "requeued by the scheduler: preemption, node failure or scontrol requeue"
    TIME_LIMIT = "the time limit came before all ranks had left"
    BATCH_FAILED = "the batch step has ended badly"
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
    script: str
    """The file that sbatch was given."""


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


def submit(script: Path) -> str:
    """Hand a script to sbatch; returns the job's id. A submission whose answer was lost is found, not repeated."""
    return ask(
        ("sbatch", "--parsable", str(script)),
        _job_id,
        unless=lambda: _submitted(script),
        environment=clean_environment(),
    )


def _job_id(answer: str) -> str:
    """The id in sbatch's answer, which is alone on its line, with the cluster's name where there are several."""
    found = re.findall(r"^(\d+)(?:;[\w.-]+)?[ \r]*$", answer, re.MULTILINE)
    if len(found) != 1:
        raise ValueError("a line with the id of a job, such as 17 or 17;cluster")
    return str(found[0])


def _submitted(script: Path) -> str | None:
    """The newest job in the queue that has this script."""
    there = [job_id for job_id, job in queue().items() if job.script == str(script)]
    return max(there, key=int, default=None)


def file_name(path: Path) -> str:
    """The path as --output wants it, where %j and the like are replaced; ValueError for what SLURM cannot write to."""
    text = str(path)
    if not text.isprintable() or "\\" in text:
        raise ValueError(f"folder is {text!r}, allowed: a path without \\ and control characters; choose another --run")
    return text.replace("%", "%%")


def queue(patience: Patience | None = None) -> dict[str, QueuedJob]:
    """This user's jobs that squeue shows: waiting, running, ending. Members of job arrays are not among them."""
    # All are asked for: squeue refuses a list that holds an id it has forgotten.
    rows = ask(("squeue", "--me", "--format=%i|%T|%N|%r|%S|%M|%o"), table("JOBID", 7), patience)
    return {
        job_id: QueuedJob(state, nodes, reason, "" if start == "N/A" else start, elapsed, script)
        for job_id, state, nodes, reason, start, elapsed, script in rows
        if job_id.isdecimal()
    }


def queued(job_ids: Iterable[str], patience: Patience | None = None) -> dict[str, QueuedJob]:
    """Those of the jobs that squeue shows."""
    wanted = set(job_ids)
    there = queue(patience) if wanted else {}
    return {job_id: job for job_id, job in there.items() if job_id in wanted}


def accounted(job_ids: Iterable[str]) -> dict[str, str]:
    """State of the jobs by sacct (COMPLETED, CANCELLED by 0, ...); empty where accounting is not available."""
    ids = ",".join(job_ids)
    if not ids:
        return {}
    command = ("sacct", "--parsable2", "-X", f"--jobs={ids}", "--format=JobID,State")
    try:
        return {row[0]: row[1] for row in ask(command, table("JobID", 2), Patience(0))}
    except SchedulerError:
        return {}


def verdict(job_id: str, restart: int, patience: Patience | None = None) -> Verdict:
    """What the scheduler has decided about a job that was started `restart` times before.

    While a job is being ended, its state is COMPLETING whatever the cause; the count of restarts and the reason tell.
    """
    shown = _show(job_id, patience)
    state, reason = shown["JobState"], shown.get("Reason", "")
    if int(shown["Restarts"]) > restart or state == WAITING:
        return Verdict.REQUEUED
    if state == "RUNNING":
        return Verdict.RUNNING
    if "TimeLimit" in reason or state == "TIMEOUT":
        return Verdict.TIME_LIMIT
    return Verdict.BATCH_FAILED if state == "FAILED" or reason.startswith(BATCH_FAILURES) else Verdict.CANCELLED


def requeue(job_id: str, restart: int, patience: Patience | None = None) -> None:
    """Send a running job back to the queue; the processes of its batch step get SIGTERM while this goes on."""

    def done() -> str | None:
        return "" if verdict(job_id, restart, patience) is Verdict.REQUEUED else None

    ask(("scontrol", "requeue", job_id), str, patience, unless=done)


def excluded_nodes(job_id: str, patience: Patience | None = None) -> tuple[str, ...]:
    """The nodes that a job leaves out."""
    listed = _show(job_id, patience).get("ExcNodeList", NONE)
    return () if listed == NONE else host_names(listed)


def exclude_nodes(job_id: str, nodes: Iterable[str], patience: Patience | None = None) -> None:
    """Leave nodes out of a job's next start, besides those that it already leaves out."""
    listed = ",".join([*excluded_nodes(job_id, patience), *nodes])
    call("scontrol", "update", f"JobId={job_id}", f"ExcNodeList={listed}", patience=patience)


def wait_for(job_id: str, dependency: str) -> None:
    """Let a waiting job wait for others than before; `dependency` is sbatch's, such as "afterany:17:18"."""
    call("scontrol", "update", f"JobId={job_id}", f"Dependency={dependency}")


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
    for name, limit, nodes, gres, memory in ask(("sinfo", "--all", "--format=%P|%l|%D|%G|%m"), table("PARTITION", 5)):
        clean = name.rstrip("*")
        before = found.get(clean)
        found[clean] = Partition(
            clean,
            name.endswith("*"),
            _minutes(limit),
            int(nodes) + (before.num_nodes if before else 0),
            max(_gpus(gres), before.gpus_per_node if before else 0),
            max(int(memory.rstrip("+")), before.memory_per_node_mb if before else 0),
        )
    return list(found.values())


def usable_nodes(partition: str, patience: Patience | None = None) -> set[str]:
    """The nodes of a partition that take jobs, now or when others have ended: those that are down or drained do not."""
    command = ("sinfo", "--Node", f"--partition={partition}", "--format=%N|%T")
    rows = ask(command, table("NODELIST", 2), patience)
    # n1|idle, n2|mixed, n3|down*: the star is for a node that does not respond.
    return {name for name, state in rows if not state.startswith(UNUSABLE) and "*" not in state}


def _gpus(gres: str) -> int:
    """The GPUs of a node by its GRES: gpu:8, gpu:a100:8(S:0-7), gpu:a100:no_consume:8, and others between commas."""
    entries = [entry.split(":") for entry in re.sub(r"\([^)]*\)", "", gres).split(",")]
    return sum(int(entry[-1]) if entry[-1].isdecimal() else 1 for entry in entries if entry[0] == "gpu")


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


def _show(job_id: str, patience: Patience | None = None) -> dict[str, str]:
    return ask(("scontrol", "show", "job", job_id), _fields, patience)


def _fields(shown: str) -> dict[str, str]:
    """The fields of a job; those that decisions rest on must be there."""
    fields: dict[str, str] = dict(re.findall(r"(\w+)=(\S*)", shown))
    if not fields.get("JobState") or not fields.get("Restarts", "").isdecimal():
        raise ValueError("a job's fields, with JobState and Restarts")
    return fields


def _minutes(limit: str) -> int:
    """SLURM's D-HH:MM:SS, or infinite, in minutes."""
    if not re.fullmatch(r"[\d:-]+", limit):
        return 0
    days, _, clock = limit.rpartition("-")
    parts = [0, 0, *(int(part) for part in clock.split(":"))][-3:]
    return int(days or 0) * 1440 + parts[0] * 60 + parts[1]


def nodes_to_leave_out(nodes: Sequence[str], job_id: str, num_needed: int) -> tuple[str, ...]:
    """Of a job that comes back: the nodes that failed twice, or cannot take part, if enough others take jobs."""
    names = ", ".join(sorted({*nodes}))
    if not nodes:
        return ()
    try:
        others = usable_nodes(os.environ.get("SLURM_JOB_PARTITION", ""), BRIEFLY) - {*nodes}
        others -= {*excluded_nodes(job_id, BRIEFLY)}
    except SchedulerError as error:
        log.warning("%s failed, and stays: nobody says which other nodes there are (%s)", names, error)
        return ()
    if len(others) < num_needed:
        log.warning("%s failed, but too few other nodes are left to leave it out", names)
        return ()
    log.warning("left out of the next start: %s", names)
    return tuple(sorted({*nodes}))
