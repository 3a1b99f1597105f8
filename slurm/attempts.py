"""What a job tells of itself in its folder: each attempt in attempts.jsonl, how far it is in heartbeat.json.
from border.documents import checked, parse_json

The files are written whole or by single short appends, so that anybody may read them at any time, without a scheduler.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from border.documents import checked, parse_json
from disk.whole_files import room_for, write_text

ATTEMPTS_FILE = "attempts.jsonl"
HEARTBEAT_FILE = "heartbeat.json"
HEARTBEAT_EVERY_S = 2.0

WAITS = "waits for an answer of SLURM"
RUNNING, FINISHED, STOPPED, FAILED, CANCELLED = "running", "finished", "stopped", "failed", "cancelled"


@dataclass(frozen=True)
class Attempt:
    """One start of a job and how it ended."""

    job_id: str
    restart: int
    """How often the job had been started before."""
    nodes: tuple[str, ...]
    started: float
    """Seconds since 1970."""
    outcome: str = RUNNING
    ended: float = 0.0
    reason: str = ""
    """Why it stopped or failed."""
    failed_node: str = ""
    """The node to blame for a failure, if one is known."""
    progress: int = -1
    """How far the job was when this attempt ended (steps done); -1: not known."""
    decided: str = ""
    """As what it ends once the scheduler has answered; empty until that is decided."""
    hopeless: bool = False
    """Whether it failed of what would be the same again."""
    start: int = 0
    """How often its ranks had been started before on the nodes that the job has."""


def begin(folder: Path, attempt: Attempt) -> None:
    """Note that an attempt has started."""
    folder.mkdir(parents=True, exist_ok=True)
    _append(folder / ATTEMPTS_FILE, asdict(attempt))


def end(
    folder: Path, attempt: Attempt, outcome: str, reason: str = "", failed_node: str = "", progress: int = -1
) -> Attempt:
    """Note how an attempt ended, which need not be the latest: on a node that was lost it may outlive the next one."""
    ended = replace(
        attempt, outcome=outcome, ended=time.time(), reason=reason, failed_node=failed_node, progress=progress
    )
    _append(folder / ATTEMPTS_FILE, asdict(ended))
    return ended


def read(folder: Path) -> list[Attempt]:
    """All attempts, oldest first, each as it was last noted; damaged lines are passed over."""
    try:
        lines = (folder / ATTEMPTS_FILE).read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return []
    found: dict[tuple[str, int, float], Attempt] = {}
    for line in lines:
        attempt = _parse(line)
        if attempt:
            found[attempt.job_id, attempt.restart, attempt.started] = attempt
    return list(found.values())


def of_submission(attempts: Sequence[Attempt], job_id: str) -> list[Attempt]:
    """The attempts of the newest submission with this id, which a cluster that was set up anew may give again."""
    own = [attempt for attempt in attempts if attempt.job_id == job_id]
    first = max((number for number, attempt in enumerate(own) if attempt.restart == attempt.start == 0), default=0)
    return own[first:]


def close_forgotten(folder: Path, progress: int) -> None:
    """Note of an attempt that was killed without a word that it is over; called when the next one starts."""
    past = read(folder)
    if not past or past[-1].outcome != RUNNING:
        return
    last = past[-1]
    if last.decided:  # it had only waited for an answer, which it did not live to hear
        end(folder, last, last.decided, last.reason.split(f"; {WAITS}")[0], last.failed_node, progress)
    else:
        reason = "ended without a word: node failure, or killed before it could say anything"
        end(folder, last, STOPPED, reason, progress=progress)


@dataclass(frozen=True)
class Heartbeat:
    """How far a job is."""

    progress: int
    total: int
    time: float
    """Seconds since 1970."""


def read_heartbeat(folder: Path) -> Heartbeat | None:
    """The latest heartbeat, or None if there is none."""
    try:
        return parse_json((folder / HEARTBEAT_FILE).read_bytes(), Heartbeat)
    except (OSError, ValueError):
        return None


def progress(folder: Path) -> int:
    """The progress of the last heartbeat, -1 where there is none."""
    heartbeat = read_heartbeat(folder)
    return heartbeat.progress if heartbeat else -1


class Pulse:
    """Writes heartbeat.json, at most every two seconds; on rank 0."""

    def __init__(self, folder: Path, total: int) -> None:
        self._folder, self._total = folder, total
        self._written_at = -HEARTBEAT_EVERY_S

    def beat(self, progress: int, at_once: bool = False) -> None:
        """Say how far the job is, unless it was said just now."""
        if at_once or time.monotonic() - self._written_at >= HEARTBEAT_EVERY_S or progress == self._total:
            write_text(self._folder / HEARTBEAT_FILE, json.dumps(asdict(Heartbeat(progress, self._total, time.time()))))
            self._written_at = time.monotonic()


def outcomes(attempts: Sequence[Attempt], outcome: str) -> int:
    """How many attempts ended so."""
    return sum(attempt.outcome == outcome for attempt in attempts)


def _append(path: Path, content: dict[str, Any]) -> None:
    line = json.dumps(content).encode() + b"\n"
    with room_for(path, len(line)), path.open("ab+") as file:
        if file.tell() and os.pread(file.fileno(), 1, file.tell() - 1) != b"\n":
            file.write(b"\n")  # a line that was cut by a power loss or a full disk must not take this one with it
        file.write(line)
        file.flush()
        os.fsync(file.fileno())


def _parse(line: str) -> Attempt | None:
    try:
        content = parse_json(line, dict[str, Any])
        # Fields that came later may be missing.
        known = {field.name: content[field.name] for field in fields(Attempt) if field.name in content}
        attempt: Attempt = checked(known, Attempt, "it")
        return attempt
    except ValueError:
        return None
