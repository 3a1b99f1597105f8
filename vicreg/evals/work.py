"""What lets an evaluation that trains stop and go on: a place for its state, and whether it is asked to stop.

It stands apart from pretraining's checkpoints because a state belongs to one result: it is worth nothing once that is
there, and nothing for other settings, data or weights.
"""

from __future__ import annotations

import itertools
import logging
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vicreg import checkpoint
from vicreg.ranks import distributed

log = logging.getLogger(__name__)

STATE_FOLDER = "state"  # beside result.json, until that is there
SAVE_EVERY_S = 60.0
KEEP = 2


class Stopped(Exception):
    """The evaluation was asked to stop, and has saved where it was."""


def _never() -> bool:
    return False


def _nothing() -> None:
    pass


def _unheard(step: int, num_steps: int) -> None:
    pass


@dataclass
class Work:
    """One evaluation's state on disk and its stop signal; without a folder nothing is kept."""

    folder: Path | None = None
    """The folder of its result."""
    belongs_to: dict[str, Any] = field(default_factory=dict)
    """Settings, data and weights, JSON-able: the state of anything else is ignored."""
    should_stop: Callable[[], bool] = _never
    require_owner: Callable[[], None] = _nothing
    """Raises when another attempt has taken over; asked before everything that is written."""
    heard: Callable[[], None] = _nothing
    """Told now and then, on every rank, that the work gets on."""
    beat: Callable[[int, int], None] = _unheard
    """Told after each step how many are done, and how many there are."""
    _saved_at: float = field(default_factory=time.monotonic, repr=False)

    def load(self) -> dict[str, Any] | None:
        """The state to go on with, the same on every rank, or None. ValueError when the ranks see different ones."""
        if self.folder is None:
            return None
        content = checkpoint.load_newest(self.folder / STATE_FOLDER)
        step = int(content["step"]) if content else -1
        if distributed.any_rank(step != distributed.from_rank_0(step)):
            raise ValueError(f"the ranks do not see the same state in {self.folder}; is the folder shared?")
        if content is None:
            return None
        if content["belongs_to"] != self.belongs_to:
            log.info("%s holds the state of other settings, data or weights: begun anew", self.folder)
            return None
        log.info("going on at step %d", step)
        state: dict[str, Any] = content["state"]
        return state

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Keep the state after a number of steps; rank 0 writes, the others may call it too."""
        self._saved_at = time.monotonic()
        if self.folder is None or distributed.rank() != 0:
            return
        content = {"step": step, "belongs_to": self.belongs_to, "state": state}
        checkpoint.save(self.folder / STATE_FOLDER, step, content, KEEP, self.require_owner)

    def save_if_due(self, step: int, state: Callable[[], dict[str, Any]]) -> None:
        """Save if a minute has passed since the last time; rank 0 decides. All ranks call it together."""
        due = self.folder is not None and time.monotonic() - self._saved_at >= SAVE_EVERY_S
        if distributed.from_rank_0(int(due)):
            self.save(step, state())

    def leave_if_asked(self, step: int, state: Callable[[], dict[str, Any]]) -> None:
        """Save and raise `Stopped` if any rank was asked to stop. All ranks call it together, after each step."""
        self.heard()
        if distributed.any_rank(self.should_stop()):
            self.save(step, state())
            raise Stopped(f"stopped at step {step}")

    def while_measuring(self, num: int, step: int, state: Callable[[], dict[str, Any]]) -> Callable[[], None]:
        """What a rank calls after each of its parts of `num` in all: it leaves if asked, where all ranks have parts."""
        done, shared = itertools.count(1), num // distributed.world_size()

        def part_done() -> None:
            self.heard()
            if next(done) <= shared:
                self.leave_if_asked(step, state)

        return part_done

    def forget(self) -> None:
        """Remove the state: the result is there."""
        if self.folder is not None and distributed.rank() == 0:
            shutil.rmtree(self.folder / STATE_FOLDER, ignore_errors=True)
