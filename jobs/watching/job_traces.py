"""What jobs leave in their run folder, read for people: which there are, how far, their last words, when last heard of.

Everything here may be missing or half-written; then there is less to say, and never an error.
"""

from __future__ import annotations

import math
import os
import re
import socket
import string
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from border.documents import parse_json
from jobs.planning.cli import read_run_file
from slurm import attempts, chain
from slurm.attempts import ATTEMPTS_FILE, RUNNING, Attempt
from slurm.chain import Submitted
from slurm.requeue import failures_in_a_row
from slurm.task import JobSpec
from vicreg.run_files import METRICS_FILE

MAIN_LOG, BATCH_LOGS = "rank_0.log", "batch_*.log"
TAIL_BYTES = 1 << 16
CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b-\x1f]")
LOG_PREFIX = re.compile(r"\d{4}-\d\d-\d\d [\d:,]+ [A-Z]+ [\w.]+: ")  # when, how bad and where: for the log's readers
METRICS_LINE = re.compile(r"epoch \d+/\d+ +step ")  # as vicreg/training/metrics.py prints it
ON_THIS_MACHINE = re.compile(r"pid (\d+)")  # ids of jobs without SLURM
COMMANDS = re.compile(r"(.*[/.])?(pretrain|eval_all|embed|search)(\.py)?")  # what runs jobs on this machine


@dataclass(frozen=True)
class Job:
    """A job as its run folder tells of it."""

    run: Path
    name: str
    submission: Submitted | None
    """None for jobs that only ever ran on this machine."""
    attempts: tuple[Attempt, ...]

    @property
    def folder(self) -> Path:
        """Where its logs are."""
        return chain.job_folder(self.run, self.name)

    @property
    def job_id(self) -> str:
        """Of its submission, or of a later start on this machine: "pid N"."""
        last = self.attempts[-1] if self.attempts else None
        if self.submission is None:
            return last.job_id if last else ""
        is_later = last and ON_THIS_MACHINE.fullmatch(last.job_id) and last.started > self.submission.submitted
        return last.job_id if last and is_later else self.submission.job_id

    @property
    def starts(self) -> list[Attempt]:
        """The attempts of its newest submission."""
        return attempts.of_submission(self.attempts, self.job_id)

    @property
    def waits_for(self) -> tuple[str, ...]:
        """Ids of the jobs that must be over before it starts."""
        return self._awaited("afterok", "afterany")

    @property
    def needs(self) -> tuple[str, ...]:
        """Ids of the jobs that must have succeeded before it starts."""
        return self._awaited("afterok")

    def _awaited(self, *conditions: str) -> tuple[str, ...]:
        given = self.submission.dependency if self.submission else ""
        parts = [part.split(":") for part in given.split(",")]
        return tuple(job_id for condition, *job_ids in parts if condition in conditions for job_id in job_ids)

    @property
    def failures_in_a_row(self) -> int:
        """Failures since it last got further; what was submitted anew has all its tries again."""
        return failures_in_a_row(self.starts)

    @property
    def max_failures(self) -> int:
        """How many failures in a row end it for good."""
        try:
            return JobSpec.read(self.folder).max_failures
        except (OSError, ValueError, TypeError):
            return JobSpec.max_failures


def find_jobs(run: Path) -> list[Job]:
    """The submitted jobs in their order, then those that only ever ran on this machine, the first to start first."""
    try:
        submitted = chain.read_jobs(run)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        submitted = {}  # damaged: what has started is in the jobs' own folders
    jobs = [Job(run, name, entry, _read_attempts(chain.job_folder(run, name))) for name, entry in submitted.items()]
    others = [path.parent for path in (run / chain.JOBS_FOLDER).glob(f"*/{ATTEMPTS_FILE}")]
    here = [Job(run, path.name, None, _read_attempts(path)) for path in others if path.name not in submitted]
    return jobs + sorted((job for job in here if job.attempts), key=lambda job: job.attempts[0].started)


def _read_attempts(folder: Path) -> tuple[Attempt, ...]:
    try:
        return tuple(attempts.read(folder))
    except (OSError, ValueError):
        return ()


@dataclass(frozen=True)
class Progress:
    """How far a job is; what is not known is 0, or NaN for the loss."""

    done: int = 0
    """Steps or pieces."""
    total: int = 0
    epoch: int = 0
    """Counted from 1."""
    epochs: int = 0
    images_per_s: float = 0.0
    data_wait_share: float = math.nan
    step_ms_p50: float = 0.0
    step_ms_p95: float = 0.0
    mfu: float = 0.0
    loss: float = math.nan
    eta_s: float = 0.0
    slowest: str = ""
    """The rank whose own time for a step is the longest, with its node."""
    slowest_factor: float = 1.0
    """That time over the median of the ranks."""


def read_progress(run: Path, name: str) -> Progress:
    """Progress by heartbeat.json; for pretraining with what metrics.jsonl and config.json add."""
    beat = attempts.read_heartbeat(chain.job_folder(run, name))
    done, total = (beat.progress, beat.total) if beat else (0, 0)
    if name != "pretrain":
        return Progress(done, total)
    epochs, global_batch = _epochs_and_batch(run)
    last = _last_metrics(run)
    done = done if beat else int(_number(last, "step", -1)) + 1
    steps_per_epoch = total / epochs if epochs else 0
    epoch = math.floor(done / steps_per_epoch) + 1 if steps_per_epoch else int(_number(last, "epoch", -1)) + 1
    rate = _number(last, "images_per_s", 0)
    eta_s = (total - done) * global_batch / rate if rate > 0 and total else 0.0
    return Progress(
        done,
        total,
        min(epoch, epochs or epoch),
        epochs,
        images_per_s=rate,
        data_wait_share=_number(last, "data_wait_share", math.nan),
        step_ms_p50=_number(last, "step_ms_p50", 0),
        step_ms_p95=_number(last, "step_ms_p95", 0),
        mfu=_number(last, "mfu", 0),
        loss=_number(last, "loss", math.nan),
        eta_s=eta_s,
        slowest=_place(chain.job_folder(run, name), int(_number(last, "slowest_rank", -1))),
        slowest_factor=_number(last, "slowest_factor", 1.0),
    )


def _place(folder: Path, rank: int) -> str:
    """A rank with the node on which it runs."""
    if rank < 0:
        return ""
    try:
        node = _read_attempts(folder)[-1].nodes[rank // JobSpec.read(folder).ranks_per_node]
    except (OSError, ValueError, TypeError, IndexError):
        return f"rank {rank}"
    return f"rank {rank} on {node}"


def _epochs_and_batch(run: Path) -> tuple[int, int]:
    try:
        train = read_run_file(run)["pretrain"]["train"]
        return int(train["epochs"]), int(train["global_batch"])
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return 0, 0


def _last_metrics(run: Path) -> dict[str, Any]:
    for line in reversed(tail(run / METRICS_FILE, 2)):  # the last line may be unfinished
        try:
            return parse_json(line, dict[str, Any])
        except ValueError:
            continue
    return {}


def _number(content: dict[str, Any], name: str, otherwise: float) -> float:
    value = content.get(name)
    return value if isinstance(value, int | float) and abs(value) < 1e15 else otherwise


def tail(path: Path, num_lines: int) -> list[str]:
    """The last lines of a file without control characters and empty lines at the end; none if it is not there."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return []
    lines = text.rstrip().split("\n")
    # A bar that was drawn again and again on one line: its last state is what would be seen.
    return [CONTROL.sub("", line.rstrip("\r").rpartition("\r")[2]) for line in lines[-num_lines:] if text.strip()]


def log_files(folder: Path) -> list[Path]:
    """Rank 0's log and the newest log of the batch step, as far as they are there."""
    batches = sorted(folder.glob(BATCH_LOGS), key=_modified)
    return [path for path in (folder / MAIN_LOG, *batches[-1:]) if path.is_file()]


def last_line(folder: Path) -> str:
    """What a job has said last, if that is more than its progress."""
    line = next((lines[-1].strip() for path in log_files(folder) if (lines := tail(path, 1))), "")
    line = LOG_PREFIX.sub("", line, count=1)
    return "" if METRICS_LINE.match(line) else line


def last_heard(folder: Path) -> float:
    """When a job last gave a sign of life, in seconds since 1970; 0 if never."""
    beat = attempts.read_heartbeat(folder)
    files = [*log_files(folder), folder / ATTEMPTS_FILE]
    return max([beat.time if beat else 0.0, *(_modified(path) for path in files)])


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def process_here(attempt: Attempt) -> int:
    """The process of an attempt that runs on this machine, without SLURM; 0 when it is gone or is not this attempt's.

    Ids are used again, after a restart of a container even soon: it must be a command of this suite that was there
    when the attempt started.
    """
    local = ON_THIS_MACHINE.fullmatch(attempt.job_id)
    if local is None or attempt.outcome != RUNNING or attempt.nodes != (socket.gethostname(),):
        return 0
    process = Path("/proc") / local[1]
    try:
        command = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
        ticks = int((process / "stat").read_text().rpartition(")")[2].split()[19])  # proc(5): starttime
    except (OSError, ValueError, IndexError):
        return 0
    age_s = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    was_there = time.time() - age_s <= attempt.started + 1
    return int(local[1]) if was_there and any(COMMANDS.fullmatch(part) for part in command) else 0


def short_nodes(names: Sequence[str]) -> str:
    """n1, n2, n3, x -> n[1-3],x, nearly as SLURM has it."""
    ranges: list[tuple[str, str, str]] = []  # what they have in common, first number, last number
    for name in names:
        prefix = name.rstrip(string.digits)
        number = name.removeprefix(prefix)
        if ranges and number and ranges[-1][0] == prefix and ranges[-1][2]:
            _, first, last = ranges[-1]
            if str(int(last) + 1).zfill(len(last)) == number:
                ranges[-1] = (prefix, first, number)
                continue
        ranges.append((prefix, number, number))
    return ",".join(
        f"{prefix}{first}" if first == last else f"{prefix}[{first}-{last}]" for prefix, first, last in ranges
    )
