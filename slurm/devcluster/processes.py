"""Which processes belong to a devcluster: those that carry its mark in their environment, and what they started."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path


def alive(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    return pid > 0 and _status(pid) not in ("", "Z")


def kill(pid: int, number: signal.Signals) -> None:
    """Send a signal to a process that may already be gone."""
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def has(pid: int, variable: str, value: str) -> bool:
    """Whether a living process has the variable set to this value in its environment."""
    return alive(pid) and f"{variable}={value}".encode() in _read(pid, "environ").split(b"\0")


def having(variable: str, value: str) -> list[int]:
    """Processes with the variable set to this value; without this one and those that started it."""
    own = _ancestors(os.getpid())
    return [pid for pid in _all() if pid not in own and has(pid, variable, value)]


def with_descendants(pids: list[int]) -> list[int]:
    """The processes and all that they started."""
    children: dict[int, list[int]] = {}
    for pid in _all():
        children.setdefault(_parent(pid), []).append(pid)
    found: list[int] = []
    due = list(pids)
    while due:
        pid = due.pop()
        if pid not in found:
            found.append(pid)
            due += children.get(pid, [])
    return found


def _all() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _read(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""


def _after_name(pid: int) -> list[str]:
    """The fields of /proc/PID/stat after the name, which may itself hold blanks and brackets."""
    return _read(pid, "stat").decode(errors="replace").rpartition(")")[2].split()


def _status(pid: int) -> str:
    fields = _after_name(pid)
    return fields[0] if fields else ""


def _parent(pid: int) -> int:
    fields = _after_name(pid)
    return int(fields[1]) if len(fields) > 1 else 0


def _ancestors(pid: int) -> set[int]:
    found = {pid}
    while pid > 1:
        pid = _parent(pid)
        found.add(pid)
    return found
