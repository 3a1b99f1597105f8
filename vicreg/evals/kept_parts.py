"""Work in parts on disk while it is done, so that an evaluation that is killed goes on from the parts.

Features and fits come row after row (`KeptRows`), a search has a state (`KeptState`). What is kept belongs to one rank
and to all that it depends on; it is a checkpoint, whole and checksummed or not taken. It is worth nothing once the
results are there, and whoever chose the folder removes it then.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vicreg import checkpoint
from vicreg.ranks import distributed

log = logging.getLogger(__name__)

KEEP_EVERY_S = 60.0
ALL = 10**9


class KeptRows:
    """Rows that are computed in order; without a folder nothing is kept."""

    def __init__(self, folder: Path | None, belongs_to: dict[str, object], what: str) -> None:
        """belongs_to: all that the rows depend on, JSON-able; what: the rows, as the log calls them."""
        self._folder, self._what = _place(folder, belongs_to), what
        self._first, self._kept_at = 0, time.monotonic()

    def load(self, values: Tensor) -> int:
        """Fill in the first rows of `values` from the parts that are there; returns how many."""
        for path in checkpoint.list_checkpoints(self._folder) if self._folder else []:
            state = _load(path)
            if state is None or state["first"] != self._first:
                break
            values[self._first : state["step"]] = state["values"]
            self._first = state["step"]
        if self._first:
            log.info("going on behind %s of %s %s", f"{self._first:,}", f"{len(values):,}", self._what)
        return self._first

    def keep_if_due(self, values: Tensor, done: int) -> None:
        """Write down the rows from the last part to before `done` if it is time to, and they are finite."""
        if self._folder is None or time.monotonic() - self._kept_at < KEEP_EVERY_S:
            return
        rows = values[self._first : done].clone()
        if bool(torch.isfinite(rows).all()):
            checkpoint.save(self._folder, done, {"first": self._first, "step": done, "values": rows}, keep=ALL)
            self._first, self._kept_at = done, time.monotonic()


class KeptState:
    """A tensor that grows better with every step; without a folder nothing is kept."""

    def __init__(self, folder: Path | None, belongs_to: dict[str, object]) -> None:
        """belongs_to: all that the tensor depends on, JSON-able."""
        self._folder, self._kept_at = _place(folder, belongs_to), time.monotonic()

    def load(self) -> tuple[int, Tensor] | None:
        """The number of steps done and the tensor after them."""
        for path in reversed(checkpoint.list_checkpoints(self._folder)) if self._folder else []:
            if state := _load(path):
                log.info("going on behind step %d", state["step"])
                return int(state["step"]), state["values"]
        return None

    def keep_if_due(self, step: int, values: Tensor) -> None:
        """Write down the tensor after a number of steps if it is time to."""
        if self._folder is not None and time.monotonic() - self._kept_at >= KEEP_EVERY_S:
            checkpoint.save(self._folder, step, {"step": step, "values": values.cpu()}, keep=1)
            self._kept_at = time.monotonic()


def _place(folder: Path | None, belongs_to: dict[str, object]) -> Path | None:
    """One of its own for each rank: who does what depends on their number."""
    by = {"rank": distributed.rank(), "world_size": distributed.world_size()}
    described = json.dumps({**belongs_to, **by}, sort_keys=True).encode()
    return folder / hashlib.sha256(described).hexdigest()[:32] if folder else None


def _load(path: Path) -> dict[str, Any] | None:
    try:
        return checkpoint.load(path)
    except checkpoint.CheckpointError as error:
        log.warning("%s; computed again from there", error)
        return None
