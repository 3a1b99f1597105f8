"""The lines of metrics.jsonl that a report needs: all of a short file; of a long one some, evenly spread.

A run of months logs millions of lines, and a chart has some hundred points. Reading a line is cheap, understanding it
is not: so of a long file every so many lines are understood, the last one, and those that have other fields than most,
such as what is measured every few epochs. No more than these are held.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vicreg.run_files import METRICS_FILE, parse

MAX_LINES = 10_000
"""That are understood of a long file, but for those with other fields than most."""
LOOKED_AT_BYTES = 1 << 16
RARE_SHARE = 200
"""One line of so many has fields that most have not."""
BEGIN, END = b'{"step": ', b"}\n"
"""Of a line that is not understood, which would show if it were none."""


@dataclass(frozen=True)
class TrainingLines:
    """What was read of a file."""

    lines: list[dict[str, Any]]
    """Oldest first."""
    num_unread: int = 0
    """Lines that cannot be read."""
    every: int = 1
    """Of so many lines one is here."""


def read(run: Path, at_most: int = MAX_LINES) -> TrainingLines:
    """The lines of a run's metrics; what follows the last newline is a line that is being written."""
    path = run / METRICS_FILE
    if not path.exists():
        return TrainingLines([])
    every = 1 + _num_lines(path) // at_most
    lines: list[dict[str, Any]] = []
    kinds: Counter[int] = Counter()
    unread, last, last_is_in = 0, b"", True
    with path.open("rb") as file:
        for number, text in enumerate(file):
            if not text.endswith(b"\n"):
                break
            kind = text.count(b'":')
            kinds[kind] += 1
            if number % every and kinds[kind] > 1 + number // RARE_SHARE:
                unread += not (text.startswith(BEGIN) and text.endswith(END))
                last, last_is_in = text, False
                continue
            line = parse(text)
            last_is_in = True
            if line is None:
                unread += 1
            else:
                lines.append(line)
    if not last_is_in and (line := parse(last)):
        lines.append(line)
    return TrainingLines(lines, unread, every)


def _num_lines(path: Path) -> int:
    """About how many lines a file has, by those at its beginning."""
    with path.open("rb") as file:
        begin = file.read(LOOKED_AT_BYTES)
    return path.stat().st_size * begin.count(b"\n") // max(1, len(begin))
