"""Features in parts on disk while they are computed, so that a job that is killed goes on from the parts.

A part belongs to one encoder, one split and the rows of one rank; it is a checkpoint, whole and checksummed or not
taken. They are worth nothing once the results are there, and whoever chose the folder removes it then.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from vicreg import checkpoint
from vicreg.exchange.encoder_file import checksum

log = logging.getLogger(__name__)

KEEP_EVERY_S = 60.0
ALL = 10**9


class FeatureParts:
    """The parts of this rank's rows; without a folder nothing is kept."""

    def __init__(self, folder: Path | None, encoder: nn.Module, belongs_to: dict[str, object]) -> None:
        """belongs_to: all that the features depend on beside the encoder's weights, JSON-able."""
        self._folder: Path | None = None
        if folder is not None:
            described = {**belongs_to, "weights": checksum(encoder), "kind": type(encoder).__name__}
            name = hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:32]
            self._folder = folder / name
        self._first, self._kept_at = 0, time.monotonic()

    def load(self, values: Tensor) -> int:
        """Fill in the first rows of `values` from the parts that are there; returns how many."""
        for path in checkpoint.list_checkpoints(self._folder) if self._folder else []:
            try:
                state = checkpoint.load(path)
            except checkpoint.CheckpointError as error:
                log.warning("%s; computed again from there", error)
                break
            if state["first"] != self._first:
                break
            values[self._first : state["step"]] = state["values"]
            self._first = state["step"]
        if self._first:
            log.info(
                "going on behind %s of %s images, whose features are there", f"{self._first:,}", f"{len(values):,}"
            )
        return self._first

    def keep_if_due(self, values: Tensor, done: int) -> None:
        """Write down the rows from the last part to before `done` if it is time to, and they are finite."""
        if self._folder is None or time.monotonic() - self._kept_at < KEEP_EVERY_S:
            return
        rows = values[self._first : done].clone()
        if bool(torch.isfinite(rows).all()):
            checkpoint.save(self._folder, done, {"first": self._first, "step": done, "values": rows}, keep=ALL)
            self._first, self._kept_at = done, time.monotonic()
