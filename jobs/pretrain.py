"""Pretrain: one recipe, any field overridden, here or on a cluster; the same command goes on after a stop."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # the tree that this file stands in, whatever is installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from border.terminal import typed
from disk.closed_pipe import quietly
from jobs.options.pretrain import parse_with_notes, require_possible
from jobs.planning.cli import user_errors
from slurm.requeue import StopFlag
from slurm.task import Task


def main(arguments: list[str]) -> int:
    """Read the options and carry them out; returns the exit code."""
    with user_errors():
        command, notes = parse_with_notes(arguments)
        require_possible(command, arguments)
        from jobs.execution import pretrain  # help and wrong options come at once, torch takes two seconds

        return pretrain.carry_out(command, notes, arguments)


def run_job(task: Task, stop: StopFlag, **arguments: Any) -> bool:
    """The job by the name that it has in job folders; see `jobs/execution/pretrain.py`."""
    from jobs.execution import pretrain

    return pretrain.run_job(task, stop, **arguments)


def script() -> int:
    """The command as it is typed."""
    return quietly(lambda: typed(main))


if __name__ == "__main__":
    sys.exit(script())
