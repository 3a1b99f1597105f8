"""What training asks whoever started the ranks: when to stop, whether it may still write; and what it tells them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal

Phase = Literal["a trial", "a checkpoint", "a measurement", "the end"]
"""What may take longer than a step, and is no hang."""


def _nobody() -> None:
    pass


def _unheard(phase: Phase) -> AbstractContextManager[None]:
    return nullcontext()


@dataclass(frozen=True)
class Oversight:
    """The three; without them a run goes on to its end."""

    should_stop: Callable[[int], bool] = lambda _: False
    """Told the number of steps done after each of them."""
    require_owner: Callable[[], None] = _nobody
    """Raises when another attempt has taken over; asked before everything that is written."""
    phase: Callable[[Phase], AbstractContextManager[None]] = _unheard
    """What is done meanwhile takes longer than a step."""
