"""What came out: the numbers of a run beside its baselines and, on published data, beside the published numbers.

It reads complete files of the run folder, prints, and leaves the same in `report.md` there and, with curves and
pictures, in `report.html`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # the tree that this file stands in, whatever is installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from border.terminal import typed
from disk.closed_pipe import quietly
from jobs.options.report import parse
from jobs.planning.cli import user_errors
from slurm.requeue import StopFlag
from slurm.task import Task


def main(arguments: list[str]) -> int:
    """Read the options and carry them out; returns the exit code."""
    with user_errors():
        command = parse(arguments)
        from jobs.execution import report  # help and wrong options come at once, torch takes two seconds

        return report.carry_out(command)


def run_job(task: Task, stop: StopFlag, **arguments: Any) -> bool:
    """The job by the name that it has in job folders; see `jobs/execution/report.py`."""
    from jobs.execution import report

    return report.run_job(task, stop, **arguments)


def script() -> int:
    """The command as it is typed."""
    return quietly(lambda: typed(main))


if __name__ == "__main__":
    sys.exit(script())
