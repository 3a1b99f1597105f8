"""The files of a run folder that others read, too: their names, and the lines of metrics.jsonl.

They stand at the door, and need no torch: who only looks at a run does not wait for it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from border.documents import parse_json

log = logging.getLogger(__name__)

ENCODER_FILE = "encoder.pt"
"""Once the run is finished."""
BEGINNING_FILE = "beginning.pt"
"""The weights that it began with, where those were given."""
METRICS_FILE = "metrics.jsonl"
BLOCK_BYTES = 1 << 20
SPEED = ("images_per_s", "data_wait_share", "step_ms_p50", "step_ms_p95", "model_tflops", "mfu")
RANKS = ("rank_ms_median", "rank_ms_worst", "slowest_rank", "slowest_factor", "slowest_wait_share")
TIMING = (*SPEED, *RANKS, "elapsed_s")  # the only fields that differ between runs of one seed


def encoder_path(run: Path, encoder: str = "") -> Path:
    """Where a finished run has the encoder of that name; without a name the first, whose file says that it is done."""
    return run / (f"encoder_{encoder}.pt" if encoder else ENCODER_FILE)


def read_lines(run: Path) -> Iterator[dict[str, Any] | None]:
    """The lines of a run's metrics one by one, oldest first; None for one that cannot be read.

    What follows the last newline is a line that is being written.
    """
    path = run / METRICS_FILE
    if not path.exists():
        return
    with path.open("rb") as file:
        for text in file:
            if text.endswith(b"\n"):
                yield parse(text)


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """All lines of a run's metrics that can be read, oldest first."""
    return [line for line in read_lines(run) if line is not None]


def parse(text: bytes) -> dict[str, Any] | None:
    """A line of metrics.jsonl, or None for what is none."""
    try:
        line = parse_json(text, dict[str, Any])
    except ValueError:
        return None
    return line if all(isinstance(line.get(name), int) for name in ("step", "epoch")) else None


def cut_behind(run: Path, first_step: int) -> float:
    """Cut off metrics.jsonl what a run that goes on at `first_step` will do again, and what is no line.

    A machine that loses power leaves half a line there, or zeros. The file is looked through from its end, for it may
    be large. Returns the seconds that the run had taken by then.
    """
    path = run / METRICS_FILE
    if not path.exists():
        return 0.0
    with path.open("rb+") as file:
        size = file.seek(0, os.SEEK_END)
        kept, lost, elapsed_s = 0, 0, 0.0
        for begin, text in _lines_from_the_end(file, size):
            line = parse(text) if text.endswith(b"\n") else None
            if line and line["step"] < first_step:
                kept, elapsed_s = begin + len(text), line.get("elapsed_s", 0.0)
                break
            lost += 0 if line else len(text)
        if lost:
            log.warning("%s: %s bytes at its end that are no line are cut off", path, f"{lost:,}")
        if kept < size:
            file.truncate(kept)
            os.fsync(file.fileno())
    return float(elapsed_s) if isinstance(elapsed_s, int | float) else 0.0


def _lines_from_the_end(file: BinaryIO, size: int) -> Iterator[tuple[int, bytes]]:
    """The lines of a file of that size with their newlines and where they begin, the last first."""
    begin, held = size, b""
    while begin:
        block = min(begin, BLOCK_BYTES)
        begin -= block
        file.seek(begin)
        held = file.read(block) + held
        end = len(held)
        while end:
            start = held.rfind(b"\n", 0, end - 1) + 1
            if start == 0 and begin > 0:
                break  # the line begins in the block before
            yield begin + start, held[start:end]
            end = start
        held = held[:end]
