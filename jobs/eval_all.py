"""Measure a run: the evaluations of its recipe, here or as jobs that wait for pretraining, and then the report.

What is done and still holds is skipped (jobs/planning/pieces.py).
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # the tree that this file stands in, whatever is installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from border.terminal import typed
from disk.closed_pipe import quietly
from jobs.options.eval_all import parse
from jobs.planning.cli import user_errors
from slurm.requeue import StopFlag
from slurm.task import Task


def main(arguments: list[str]) -> int:
    """Read the options and carry them out; returns the exit code."""
    with user_errors("stopped; what is done stays, the same command does the rest"):
        command = parse(arguments)
        from jobs.execution import eval_all  # help and wrong options come at once, torch takes two seconds

        return eval_all.carry_out(command)


def run_job(task: Task, stop: StopFlag, **arguments: Any) -> bool:
    """The job by the name that it has in job folders; see `jobs/execution/eval_all.py`."""
    from jobs.execution import eval_all

    return eval_all.run_job(task, stop, **arguments)


def script() -> int:
    """The command as it is typed."""
    return quietly(lambda: typed(main))


if __name__ == "__main__":
    sys.exit(script())
