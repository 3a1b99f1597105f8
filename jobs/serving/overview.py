"""What is known of all runs below a folder, looked at again and again: quick, because only what has changed is read.

A look has a deadline: what is not read by then (the measures of runs that are over, the first time) comes with the
next one. Files are read, never locked, and none is found by a name from outside: a run is asked for by its id.
"""

from __future__ import annotations

import hashlib
import math
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict

from border.documents import parse_json
from border.text import visible
from jobs.planning.cli import CONFIG_FILE, read_run_file
from jobs.watching.followed_files import OnlineMeasures, finite
from jobs.watching.job_states import JobState, Queue, collect
from jobs.watching.run_states import RunState, run_state
from slurm.attempts import ATTEMPTS_FILE, HEARTBEAT_FILE
from slurm.chain import JOBS_FILE, JOBS_FOLDER
from vicreg.config_json import flat
from vicreg.evals.results import EVALS, RESULT_FILE
from vicreg.run_files import METRICS_FILE
from vicreg.stop_rule import EARLY_END_FILE

DEPTH = 4
"""Folders below the one that was asked for in which runs are looked for; none is looked for in a run."""
ASK_SLURM_EVERY_S = 10.0
LOOK_S = 0.4
Signature = tuple[tuple[int, int], ...]


class _ResultHead(TypedDict):
    metrics: dict[str, float]


@dataclass
class Known:
    """A run, and what was read of it last."""

    path: Path
    name: str
    settings: dict[str, Any] = field(default_factory=dict)
    jobs: list[JobState] = field(default_factory=list)
    state: RunState | None = None
    online: OnlineMeasures = field(init=False)
    measured: dict[str, float] = field(default_factory=dict)
    """Of the trained encoder: the first number of each evaluation."""
    is_read: bool = False
    """Whether all measures are known."""
    _config: Signature = ()
    _folder: Signature = ()
    _results: dict[Path, Signature] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.online = OnlineMeasures(self.path)

    def read_settings(self) -> None:
        """The configuration, if it is another one."""
        signature = _signature([self.path / CONFIG_FILE])
        if signature == self._config:
            return
        self._config = signature
        try:
            content = read_run_file(self.path)
        except (OSError, ValueError):
            return
        self.settings = {"recipe": content.get("recipe", "")} | flat(content["pretrain"])

    def read_jobs(self, queue: Queue, is_asked: bool) -> None:
        """Its jobs, if something has changed or may change without a file; `is_asked`: SLURM has just answered."""
        names = [EARLY_END_FILE, JOBS_FILE, METRICS_FILE]
        folders = _folders(self.path / JOBS_FOLDER)
        own = [folder / name for folder in folders for name in (ATTEMPTS_FILE, HEARTBEAT_FILE)]
        signature = _signature([*(self.path / name for name in names), *own])
        lives = any(not job.is_over for job in self.jobs)
        if self.state and signature == self._folder and not (lives and is_asked):
            return
        self._folder = signature
        self.jobs = collect(self.path, queue)
        self.state = run_state(self.path, self.jobs)

    def read_measures(self, deadline: float) -> None:
        """What was measured online, and the results of evaluations, as far as there is time."""
        self.is_read = self.online.read_on(deadline)
        for folder in _folders(self.path / EVALS):
            path = folder / RESULT_FILE
            signature = _signature([path])
            if "@" in folder.name or self._results.get(path) == signature:
                continue
            if time.monotonic() > deadline:
                self.is_read = False
                return
            self._results[path] = signature
            try:
                metrics = parse_json(path.read_bytes(), _ResultHead)["metrics"]
            except (OSError, ValueError):
                continue
            if (first := finite(next(iter(metrics.values()), None))) is not None:
                self.measured[folder.name] = first

    def row(self) -> dict[str, Any]:
        """The run in JSON form, without its settings."""
        assert self.state
        progress = self.state.progress
        online = {name: value for name, (value, _) in self.online.best.items()}
        return {
            "name": self.name,
            "state": self.state.state,
            "job": self.state.job,
            "note": visible(self.state.note)[:300],
            "silent_s": self.state.silent_s,
            "done": progress.done,
            "total": progress.total,
            "epoch": progress.epoch,
            "epochs": progress.epochs,
            "eta_s": progress.eta_s,
            "images_per_s": progress.images_per_s,
            "loss": progress.loss if math.isfinite(progress.loss) else None,
            "started": max((job.started for job in self.jobs), default=0.0),
            "measured": online | self.measured,
            "is_read": self.is_read,
        }


class Overview:
    """All runs below a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.runs: dict[str, Known] = {}
        self._queue, self._asked = Queue({}, {}, frozenset()), -math.inf

    def look(self) -> dict[str, Any]:
        """What the page shows of all runs, in JSON form."""
        deadline = time.monotonic() + LOOK_S
        found = {_id(path): path for path in find_runs(self.root)}
        for run_id in self.runs.keys() - found.keys():
            del self.runs[run_id]
        for run_id, path in found.items():
            if run_id not in self.runs:
                self.runs[run_id] = Known(path, visible(_name(path, self.root)))
        is_asked = time.monotonic() - self._asked > ASK_SLURM_EVERY_S
        if is_asked:
            open_runs = [
                run.path for run in self.runs.values() if not run.state or not all(j.is_over for j in run.jobs)
            ]
            self._queue, self._asked = Queue.ask(open_runs), time.monotonic()
        for run in self.runs.values():
            run.read_settings()
            run.read_jobs(self._queue, is_asked)
        for run in sorted(self.runs.values(), key=lambda run: (run.is_read, all(job.is_over for job in run.jobs))):
            run.read_measures(deadline)
        return {
            "folder": visible(self.root),
            "trouble": visible(self._queue.trouble),
            "settings": differing(self.runs),
            "runs": {run_id: run.row() for run_id, run in self.runs.items()},
        }


def differing(runs: dict[str, Known]) -> dict[str, dict[str, str]]:
    """The settings in which runs differ, each with its value by run; what an older version did not have is no other."""
    names = dict.fromkeys(name for run in runs.values() for name in run.settings)
    found: dict[str, dict[str, str]] = {}
    for name in names:
        values = {run_id: said(run.settings[name]) for run_id, run in runs.items() if name in run.settings}
        if len(set(values.values())) > 1:
            found[name] = values
    return found


def said(value: Any) -> str:
    """A setting's value in short."""
    if isinstance(value, list):
        return ", ".join(map(said, value))[:200]
    return f"{value:.12g}" if isinstance(value, float) else visible(value)[:200]


def find_runs(folder: Path, depth: int = DEPTH) -> Iterator[Path]:
    """The run folders at and below a folder, by their config.json; folders that cannot be read have none."""
    if (folder / CONFIG_FILE).is_file():
        yield folder
    elif depth:
        for path in _folders(folder):
            if not path.is_symlink():
                yield from find_runs(path, depth - 1)


def _folders(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    except OSError:
        return []
    return [folder / name for name in names]


def _signature(paths: Iterable[Path]) -> Signature:
    """When files were changed last, and their sizes; zeros for those that are not there."""
    found = []
    for path in paths:
        try:
            stat = path.stat()
            found.append((stat.st_mtime_ns, stat.st_size))
        except OSError:
            found.append((0, 0))
    return tuple(found)


def _id(path: Path) -> str:
    return hashlib.sha256(os.fsencode(path)).hexdigest()[:16]


def _name(path: Path, root: Path) -> str:
    return str(path.relative_to(root)) if path != root else path.name
