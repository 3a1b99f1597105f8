"""Files that grow, read on from where they were read to: never as a whole twice, never locked.

A file that has become shorter, or is another one now, is read anew: a run that goes on from a checkpoint cuts off what
it will do again.
"""

from __future__ import annotations

import math
import os
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, BinaryIO

from vicreg.run_files import METRICS_FILE, parse
from vicreg.stop_rule import MEASURES

BLOCK_BYTES = 1 << 20
MARK_BYTES = 64
LARGEST = 1e300  # whole numbers of JSON may be larger than any that can be drawn
MEASURED = b'_top1":'  # in the lines that have one of MEASURES


class FollowedFile(ABC):
    """Hands whole lines to `take`, each once; `forget` is called where all that was taken holds no more."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.offset = 0
        self._mark = b""  # what stands before the offset, by which the file is known again

    @abstractmethod
    def take(self, block: bytes) -> None:
        """Some lines with their newlines."""

    @abstractmethod
    def forget(self) -> None:
        """Begin anew."""

    def read_on(self, deadline: float = math.inf) -> bool:
        """Read what is new, by time.monotonic() until the deadline; whether that was all."""
        try:
            with self.path.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                if self.offset and not self._is_known(file, size):
                    self.offset, self._mark = 0, b""
                    self.forget()
                while self.offset < size:
                    if time.monotonic() > deadline:
                        return False
                    if not self._read_block(file, size):
                        break  # a line that is being written
        except OSError:
            return True  # there is none yet, or it cannot be read now
        return True

    def _is_known(self, file: BinaryIO, size: int) -> bool:
        if size < self.offset:
            return False
        file.seek(self.offset - len(self._mark))
        return file.read(len(self._mark)) == self._mark

    def _read_block(self, file: BinaryIO, size: int) -> bool:
        file.seek(self.offset)
        block = file.read(min(BLOCK_BYTES, size - self.offset))
        end = block.rfind(b"\n") + 1
        if not end and len(block) == BLOCK_BYTES:
            end = len(block)  # no line of ours is that long
        if end:
            self.take(block[:end])
            self.offset += end
            self._mark = block[max(0, end - MARK_BYTES) : end]
        return bool(end)


class OnlineMeasures(FollowedFile):
    """The best and the last of what was measured online, each with the epochs that were done, from metrics.jsonl."""

    def __init__(self, run: Path) -> None:
        super().__init__(run / METRICS_FILE)
        self.best: dict[str, tuple[float, int]] = {}
        self.last: dict[str, tuple[float, int]] = {}

    def forget(self) -> None:
        """Nothing was measured."""
        self.best, self.last = {}, {}

    def take(self, block: bytes) -> None:
        """Only the lines that have a measure are understood; the others are most."""
        place = block.find(MEASURED)
        while place >= 0:
            begin, end = block.rfind(b"\n", 0, place) + 1, block.find(b"\n", place) + 1
            self._look_at(parse(block[begin : end or len(block)]) or {})
            place = block.find(MEASURED, end) if end else -1

    def _look_at(self, line: dict[str, Any]) -> None:
        for name in MEASURES:
            value = finite(line.get(name))
            if value is not None:
                self.last[name] = value, line["epoch"] + 1
                if name not in self.best or value > self.best[name][0]:
                    self.best[name] = self.last[name]


def finite(value: Any) -> float | None:
    """A number that a curve can show, or None."""
    return value if isinstance(value, int | float) and abs(value) < LARGEST else None


def online_measures(run: Path) -> OnlineMeasures:
    """What was measured online of a run until now."""
    measures = OnlineMeasures(run)
    measures.read_on()
    return measures
