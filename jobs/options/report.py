"""Options of jobs/report.py."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from jobs.planning.command_line import read_command
from jobs.planning.run_folder import read_run
from jobs.planning.sweeps import is_sweep


@dataclass(frozen=True)
class Command:
    """Show what was measured of one or more runs: here, and in report.md and report.html of each run folder."""

    runs: Annotated[
        tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN [RUN ...]", help_behavior_hint="")
    ]
    """Run folders, or those of sweeps; several runs are also put side by side, in comparison.md and comparison.html of
    the first."""


def parse(arguments: list[str]) -> Command:
    """The command line; ValueError for what is no run folder."""
    command = read_command(Command, arguments)
    if not command.runs:
        raise ValueError("runs is empty, allowed: one run folder or more")
    for run in command.runs:
        if not is_sweep(run):
            read_run(run)
    return command
