"""Commands that are printed to be typed as they stand: by a path that holds here, quoted, and on the run's cluster."""

from __future__ import annotations

from pathlib import Path

from border.text import suite_command
from slurm import attempts, chain, cluster

PLACED = ("jobs/pretrain.py", "jobs/eval_all.py", "jobs/embed.py")
"""The commands that go to a cluster."""
_HERE = "pid "  # how ids of jobs without SLURM begin

_typed = ""


def remember(name: str) -> None:
    """The profile that the command line of this process names; empty for none."""
    global _typed  # one command line, one process
    _typed = name


def run_command(script: str, run: Path, *words: object) -> str:
    """A command about a run, with the profile that is meant where it is not what is taken anyway."""
    chosen = ["--cluster", name] if script in PLACED and (name := _typed or _elsewhere(run)) else []
    return suite_command(script, *words, *chosen)


def pretrain(run: Path) -> str:
    """What goes on with a run, or makes it."""
    return run_command("jobs/pretrain.py", run, "--run", run)


def eval_all(run: Path) -> str:
    """What measures a run."""
    return run_command("jobs/eval_all.py", run, run)


def _elsewhere(run: Path) -> str:
    """The profile that the run's newest job has, if it is not what is taken where none is named."""
    try:
        usual = cluster.load("")
        submitted = list(chain.read_jobs(run).values())
    except (OSError, ValueError):
        return ""
    newest = submitted[-1] if submitted else None
    past = [attempt for folder in (run / chain.JOBS_FOLDER).glob("*") for attempt in attempts.read(folder)]
    started = max(past, key=lambda attempt: attempt.started, default=None)
    if started and started.job_id.startswith(_HERE) and (newest is None or started.started > newest.submitted):
        return "local" if usual.scheduler != "local" else ""
    return newest.cluster if newest and newest.cluster != usual.name else ""
