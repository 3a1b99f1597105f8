"""How SLURM's commands are called: with a time limit, again while it is busy, and no answer is believed unread.

A controller that restarts, fails over or has thousands of jobs to place answers nothing or nonsense for minutes; what
a run has computed must not hang on one answer. What is asked stands in slurm/scheduler.py.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

log = logging.getLogger(__name__)

Answer = TypeVar("Answer")

TIMEOUT_S = 60
FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 30.0
PATIENCE_S = 60.0  # of a command that somebody has typed
BUSY = re.compile(  # of slurm/slurm_errno.h and the socket calls; everything else is a refusal
    r"timed? ?out|unable to contact|connection (refused|reset|aborted|failure)|connect failure|communications? "
    r"(connection |shutdown )?(failure|error)|zero bytes|temporar|try again|retrying|standby|in the process of|"
    r"(send|receive|transmit) (failure|error)|unexpected message|insane message|no route to host|"
    r"network is unreachable|broken pipe|transport endpoint|authentication (token|credential) expired|"
    r"protocol authentication error|munge.*(socket|error)|cannot allocate memory|cannot fork",
    re.IGNORECASE,
)
MEANT_FOR_THE_JOB = (-signal.SIGTERM, -signal.SIGCONT)  # signals that reach every process of a job, this command too
LEFT_BY_A_JOB = ("SLURM_", "SLURMD_", "SRUN_", "PMI_", "PMIX_", "SUBMITIT_")
LEFT_BY_RANKS = ("MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
NOT_OF_THE_JOB = ("SLURM_CONF", "SLURM_TIME_FORMAT", "SLURM_CLUSTERS")
FLAGS_AS_VARIABLES = "SBATCH_"  # each beats the flag of a script


class SchedulerError(RuntimeError):
    """SLURM did not do what was asked; the message holds what it said."""

    def __init__(self, said: str, is_busy: bool = False) -> None:
        super().__init__(said)
        self.is_busy = is_busy


@dataclass(frozen=True)
class Patience:
    """How long a scheduler that is busy is asked again, and who is told of it."""

    seconds: float
    tell: Callable[[str], object] = log.warning


def call(*command: str, patience: Patience | None = None) -> str:
    """Output of a command; SchedulerError with its own words when it fails."""
    return ask(command, str, patience)


def ask(
    command: Sequence[str],
    read: Callable[[str], Answer],
    patience: Patience | None = None,
    unless: Callable[[], Answer | None] = lambda: None,
    environment: dict[str, str] | None = None,
) -> Answer:
    """What a command answers, as `read` takes it from its output (ValueError for what is no answer).

    While the scheduler is busy it is asked again, with growing pauses. A command that changes something may have been
    heard although its answer was lost: `unless` looks for what it was to bring about before it is given again.
    """
    patience = patience or Patience(PATIENCE_S)
    deadline, wait_s = time.monotonic() + patience.seconds, FIRST_WAIT_S
    while True:
        try:
            return read_answer(command, read, environment)
        except SchedulerError as error:
            failure = error
        may_wait = failure.is_busy and time.monotonic() + wait_s <= deadline
        if may_wait:
            patience.tell(f"{failure}; asked again in {wait_s:.0f} s")
            time.sleep(wait_s)
            wait_s = min(2 * wait_s, LONGEST_WAIT_S)
        try:
            there = unless()
        except SchedulerError as error:
            raise failure from error
        if there is not None:
            return there
        if not may_wait:
            raise failure


def read_answer(
    command: Sequence[str], read: Callable[[str], Answer], environment: dict[str, str] | None = None
) -> Answer:
    """What a command answers when it is asked once."""
    done = _run(command, environment)
    if done.returncode:
        said = done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}"
        is_busy = done.returncode in MEANT_FOR_THE_JOB or BUSY.search(said) is not None
        raise SchedulerError(f"{_shown(command)}: {said}", is_busy)
    try:
        return read(done.stdout)
    except ValueError as error:
        said = f"{_shown(command)} answered {done.stdout.strip()[:200]!r}, allowed: {error}"
        raise SchedulerError(said, is_busy=True) from error


def table(first: str, num_columns: int) -> Callable[[str], list[list[str]]]:
    """Reads the rows that stand under a header, columns between |; `first` is the first title.

    Without the header there was no answer: a banner of the site alone must not be taken for an empty queue.
    """

    def read(text: str) -> list[list[str]]:
        rows = [line.split("|", num_columns - 1) for line in text.splitlines()]
        titles = [number for number, row in enumerate(rows) if row[0] == first and len(row) == num_columns]
        if not titles:
            raise ValueError(f"a table that begins with {first}")
        return [row for row in rows[titles[0] + 1 :] if len(row) == num_columns]

    return read


def clean_environment() -> dict[str, str]:
    """The environment without sbatch's flags, so that the script holds, and without what a surrounding job left."""
    left = {name for name in os.environ if name.startswith(FLAGS_AS_VARIABLES)}
    if "SLURM_JOB_ID" in os.environ:
        left |= {name for name in os.environ if name.startswith(LEFT_BY_A_JOB) and name not in NOT_OF_THE_JOB}
        left |= {*LEFT_BY_RANKS, "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS"}
    return {name: value for name, value in os.environ.items() if name not in left}


def _run(command: Sequence[str], environment: dict[str, str] | None) -> subprocess.CompletedProcess[str]:
    if shutil.which(command[0]) is None:
        raise SchedulerError(f"{command[0]} is not on this machine's PATH; load SLURM's module, or use --cluster local")
    try:
        return subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=TIMEOUT_S, env=environment
        )
    except subprocess.TimeoutExpired as error:
        raise SchedulerError(f"{command[0]} did not answer within {TIMEOUT_S} s", is_busy=True) from error


def _shown(command: Sequence[str]) -> str:
    """A command without what is only about its form."""
    return " ".join(word for word in command if not word.startswith("--"))
