"""Ends a rank that has not been heard of for too long, and tells a hang from what may take long.

A hang of one rank is one of all: they wait for each other in the next collective. So is a long checkpoint of one rank,
which is why what may take long is also said in the start's folder, for the watchdogs of the others.
"""

from __future__ import annotations

import faulthandler
import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from border.documents import parse_json
from border.terminal import complain
from slurm.task import Task

HUNG_EXIT_CODE = 70  # sysexits.h: internal software error
DUMP_LEAD_S = 10.0  # from the dump of the stacks to the end of the process: the other ranks dump theirs
A_STEP, THE_START = "a step", "the start"
ALLOWANCES = {A_STEP: 1, THE_START: 2, "a checkpoint": 2, "a measurement": 4, "the end": 4}
"""How long a phase may last, in times of `hang_timeout_s`: compilation belongs to the start, a whole validation set
passes through the encoder in a measurement, and the last checkpoint and the encoder are written at the end."""


class Watchdog:
    """Ends this process when it has not been heard of for too long, after a dump of all its threads' stacks.

    Every rank has one, and they were last heard of at about the same time; so each dumps its stacks, and only some
    seconds later the first one leaves, with an exit code that ends the job for another try.
    """

    def __init__(self, task: Task) -> None:
        self._task, self._folder = task, Path(task.start_folder)
        self._phase, self._heard = THE_START, time.monotonic()
        self._seen: dict[tuple[str, int], float] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()

    def heard(self) -> None:
        """The process is alive and gets on: a step is done, or a part of what takes long."""
        self._heard = time.monotonic()
        if self._phase == THE_START:
            self._phase = A_STEP

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """What is done meanwhile may take longer than a step; `name` is one of `ALLOWANCES`."""
        before, path = self._phase, self._folder / f"phase_{self._task.rank}.json"
        with suppress(OSError):  # a full disk must not end the job here; a hang is then told a little early
            path.write_text(json.dumps([name, ALLOWANCES[name] * self._task.hang_timeout_s]))
        self._heard, self._phase = time.monotonic(), name
        try:
            yield
        finally:
            self._heard, self._phase = time.monotonic(), before
            with suppress(OSError):
                path.unlink(missing_ok=True)

    def close(self) -> None:
        """Stop watching."""
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(min(1.0, self._task.hang_timeout_s / 4)):
            silent_s = time.monotonic() - self._heard
            if silent_s > ALLOWANCES[self._phase] * self._task.hang_timeout_s and not self._others_may_take_long():
                break
        else:
            return
        what = f"no step for {silent_s:.0f} s" if self._phase == A_STEP else f"{self._phase} took over {silent_s:.0f} s"
        message = f"{what}; the stacks of all threads stand in the log of each rank"
        complain(f"rank {self._task.rank}: {message}")
        faulthandler.dump_traceback(sys.stderr, all_threads=True)
        self._task.note_error(message)
        self._over.wait(DUMP_LEAD_S)
        sys.stderr.flush()
        os._exit(HUNG_EXIT_CODE)

    def _others_may_take_long(self) -> bool:
        """Whether another rank is at something whose allowance is not over, by when this one has first seen it."""
        now = time.monotonic()
        for path in self._folder.glob("phase_*.json"):
            try:
                seen = self._seen.setdefault((path.name, path.stat().st_mtime_ns), now)
                _, allowed_s = parse_json(path.read_bytes(), tuple[str, float])
            except (OSError, ValueError):
                continue  # just begun, or just over
            if path.name != f"phase_{self._task.rank}.json" and now - seen < allowed_s:
                return True
        return False
