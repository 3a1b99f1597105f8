"""Curves of a run that go on while it learns: some hundred points of metrics.jsonl, however long it is.

Understanding a line is what costs, so of a long file every so many lines are understood, and all that have what is
measured every few epochs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jobs.watching.followed_files import MEASURED, FollowedFile, finite
from vicreg.run_files import METRICS_FILE, parse

POINTS = 400
"""At least so many of a long file, at most twice as many."""


class _Thinned:
    """Of all lines that come, every so many; when there are too many, every second of these goes."""

    def __init__(self, every: int = 1) -> None:
        self.every, self.number = every, 0
        self.lines: list[tuple[int, dict[str, Any]]] = []

    def offer(self, text: bytes) -> None:
        self.number += 1
        if self.number % self.every:
            return
        line = parse(text)
        if line is not None:
            self.lines.append((self.number, line))
        if len(self.lines) > 2 * POINTS:
            self.every *= 2
            self.lines = [(number, line) for number, line in self.lines if number % self.every == 0]


class CurveFile(FollowedFile):
    """The points of a run's metrics."""

    def __init__(self, run: Path) -> None:
        super().__init__(run / METRICS_FILE)
        self.forget()

    def forget(self) -> None:
        """No lines."""
        self._usual: _Thinned | None = None
        self._measured = _Thinned()
        self._last: dict[str, Any] = {}

    def take(self, block: bytes) -> None:
        """Some lines."""
        texts = block.splitlines()
        if self._usual is None:
            num_lines = len(texts) * self.path.stat().st_size // len(block)
            self._usual = _Thinned(1 + num_lines // (2 * POINTS))
        for text in texts:
            (self._measured if MEASURED in text else self._usual).offer(text)
        self._last = parse(texts[-1]) or self._last

    def lines(self) -> list[dict[str, Any]]:
        """What is kept, oldest first."""
        kept = [line for some in (self._usual, self._measured) if some for _, line in some.lines]
        by_step = {line["step"]: line for line in [*kept, *([self._last] if self._last else [])]}
        return [by_step[step] for step in sorted(by_step)]

    def fields(self) -> list[str]:
        """Names of all numbers that are logged."""
        names = {name: None for line in self.lines() for name, value in line.items() if isinstance(value, int | float)}
        return [name for name in names if name not in ("step", "epoch", "elapsed_s")]

    def steps_per_epoch(self) -> int:
        """Of the logged steps; the smallest number that fits, which is the right one after an epoch or two."""
        return max((line["step"] // max(1, line["epoch"] + 1) + 1 for line in self.lines()), default=1)

    def curve(self, field: str) -> list[list[float]]:
        """Points of a field: steps done, hours, value; those that are not finite are left out."""
        points = []
        for line in self.lines():
            value, elapsed_s = (finite(line.get(name)) for name in (field, "elapsed_s"))
            if value is not None:
                points.append([line["step"] + 1, (elapsed_s or 0.0) / 3600, value])
        return points
