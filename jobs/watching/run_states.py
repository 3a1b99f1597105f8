"""Where a run is as a whole: one state, one progress and one note out of those of its jobs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jobs.watching.job_states import ACTIVE, JobState
from jobs.watching.job_traces import Progress
from slurm.attempts import FINISHED, STOPPED
from vicreg.run_files import ENCODER_FILE
from vicreg.stop_rule import early_end_of

NOT_STARTED = "not started"


@dataclass(frozen=True)
class RunState:
    """One line about a run."""

    run: Path
    state: str
    """In capitals while it is not over; finished when all of its jobs are."""
    job: str
    """The job that the state is of; empty for all together."""
    progress: Progress
    """Of that job; of pretraining where it is of all."""
    note: str
    silent_s: float = 0.0


def run_state(run: Path, jobs: Sequence[JobState]) -> RunState:
    """The job that runs, else the one that waits, else the one that did not finish; else all are finished."""
    early = early_end_of(run)
    pretrain = next((job for job in jobs if job.name == "pretrain"), None)
    progress = pretrain.progress if pretrain else Progress()
    running = [job for job in jobs if job.state == ACTIVE]
    waiting = [job for job in jobs if not job.is_over and job.state != ACTIVE]
    undone = [job for job in jobs if job.is_over and job.state != FINISHED]
    for chosen in (running, [job for job in undone if job.state != STOPPED], waiting, undone):
        if chosen:
            job = chosen[0]
            others = f" and {len(chosen) - 1} more" if len(chosen) > 1 else ""
            return RunState(run, job.state, f"{job.name}{others}", job.progress, job.note, job.silent_s)
    if jobs or (run / ENCODER_FILE).is_file():
        return RunState(run, FINISHED, "", progress, f"ended early: {early}" if early else "")
    return RunState(run, NOT_STARTED, "", progress, "")
