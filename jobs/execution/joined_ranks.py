"""What every rank of a job begins with, whatever the job does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from border.terminal import Terminal
from jobs.planning.cli import LOG_WIDTH, configure_logging, placement_of, user_errors
from jobs.planning.run_folder import require_same_code
from slurm.hang_watchdog import Watchdog
from slurm.task import Task
from vicreg.ranks.distributed import Placement
from vicreg.ranks.meeting import require_agreement
from vicreg.ranks.rendezvous import connected


class Joined(NamedTuple):
    """A rank among the others of its job."""

    console: Console
    placement: Placement
    watchdog: Watchdog


@contextmanager
def joined(task: Task, folder: Path, when_interrupted: str = "") -> Iterator[Joined]:
    """A rank with its log in the job's folder, watched, and connected to others that run the same code.

    Errors that a user can mend end it with their sentence; `when_interrupted` is said where a signal ends it.
    """
    console = Terminal() if task.has_terminal else Terminal(force_terminal=False, width=LOG_WIDTH)
    configure_logging(console, task, folder)
    placement = placement_of(task)
    with (
        user_errors(when_interrupted, note=task.note_error),
        connected(placement, task.rendezvous, task.rendezvous_timeout_s, task.is_given),
        closing(Watchdog(task)) as watchdog,
    ):
        require_agreement(placement)
        require_same_code(placement.name(task.rank))
        yield Joined(console, placement, watchdog)
