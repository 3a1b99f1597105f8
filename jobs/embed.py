"""Features out: what a run's encoder says of any images, as a file with a row for each; here or on a cluster.

A folder, a list, shards or parquet are first written into a beton in the run folder by the project's own writer, which
stays for the next time. Stopped, the same command goes on: features are kept in parts until the file is there.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # the tree that this file stands in, whatever is installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from border.terminal import typed
from disk.closed_pipe import quietly
from jobs.options.embed import parse
from jobs.planning.cli import user_errors
from slurm.requeue import StopFlag
from slurm.task import Task


def main(arguments: list[str]) -> int:
    """Read the options and carry them out; returns the exit code."""
    with user_errors("stopped; the same command goes on from there"):
        command = parse(arguments)
        from jobs.execution import embed  # help and wrong options come at once, torch takes two seconds

        return embed.carry_out(command)


def write_job(task: Task, stop: StopFlag, **arguments: Any) -> bool:
    """The job by the name that it has in job folders; see `jobs/execution/embed.py`."""
    from jobs.execution import embed

    return embed.write_job(task, stop, **arguments)


def embed_job(task: Task, stop: StopFlag, **arguments: Any) -> bool:
    """The job by the name that it has in job folders; see `jobs/execution/embed.py`."""
    from jobs.execution import embed

    return embed.embed_job(task, stop, **arguments)


def script() -> int:
    """The command as it is typed."""
    return quietly(lambda: typed(main))


if __name__ == "__main__":
    sys.exit(script())
