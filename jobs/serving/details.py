"""What is shown of one run when it is asked for: its jobs, the ends of their logs, all settings, its pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from border.documents import parse_json
from border.text import visible
from jobs.reporting import pictures
from jobs.serving.overview import Known, said
from jobs.watching import job_traces
from jobs.watching.job_states import JobState
from jobs.watching.wording import clock, pace_line, progress_line
from slurm import chain
from vicreg.evals.results import EVALS, RESULT_FILE

NUM_LOG_LINES = 40
GALLERY = "gallery"  # the module whose details are pictures
MAX_RESULT_BYTES = 64 << 20


def details(run: Known) -> dict[str, Any]:
    """Jobs, logs and settings in JSON form."""
    logs = [
        {"job": visible(job.name), "file": visible(path.name), "lines": job_traces.tail(path, NUM_LOG_LINES)}
        for job in run.jobs
        for path in job_traces.log_files(chain.job_folder(run.path, job.name))
    ]
    return {
        "name": run.name,
        "jobs": [_job(job) for job in run.jobs],
        "logs": logs,
        "settings": {name: said(value) for name, value in run.settings.items()},
        "gallery": _gallery(run.path) is not None,
    }


def _job(job: JobState) -> dict[str, str]:
    return {
        "job": visible(job.name),
        "id": visible(job.job_id),
        "state": visible(job.state),
        "nodes": visible(job.nodes),
        "time": clock(job.elapsed_s) if job.elapsed_s else "",
        "progress": ", ".join(part for part in (progress_line(job.progress), pace_line(job.progress)) if part),
        "note": visible(job.note, kept="\n"),
    }


def gallery(run: Known) -> dict[str, str]:
    """The pictures of a run as HTML, made here with every name escaped; empty where there are none."""
    path = _gallery(run.path)
    if path is None:
        return {"html": ""}
    found = parse_json(path.read_bytes(), dict[str, Any])["details"]
    return {"html": pictures.feature_map(found) + pictures.neighbours(found)}


def _gallery(run: Path) -> Path | None:
    path = run / EVALS / GALLERY / RESULT_FILE
    return path if path.is_file() and path.stat().st_size < MAX_RESULT_BYTES else None
