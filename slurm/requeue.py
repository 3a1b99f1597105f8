"""How a job stops and comes back: signals set a flag, and what is known after an attempt decides what happens next.

Nothing here talks to the scheduler (slurm/scheduler.py does) or starts anything (slurm/batch.py does).
"""

from __future__ import annotations

import math
import re
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import FrameType, TracebackType

from slurm.attempts import FAILED, Attempt
from slurm.owner import Claim

STOP_SIGNALS = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
PLACE = re.compile(r"^ranks? [\d,-]+ on \S+: ")  # where a failure was: not what it was
FAILURES_TO_EXCLUDE = 2  # a node that failed a job so often is left out of its next try


class StopFlag:
    """True once one of the stop signals has come; a second Ctrl-C ends the process at once.

    The handlers do nothing but set the flag, until the block of a `with` statement ends. A job that has nothing to save
    calls `interrupt_at_once`, and the signal then raises KeyboardInterrupt wherever the process is. `claim` is what
    lets this process write; asking the flag raises Superseded when another attempt has taken over, which is looked at
    each time or, where many ask and do not write, every `look_every_s`.
    """

    def __init__(
        self, on_first: Callable[[str], None] | None = None, claim: Claim | None = None, look_every_s: float = 0.0
    ) -> None:
        self.signal_name = ""
        self._on_first, self._claim = on_first, claim
        self._look_every_s, self._looked = look_every_s, -math.inf
        self._interrupt = False
        self._previous = {number: signal.signal(number, self._set) for number in wanted_signals()}

    def _set(self, number: int, frame: FrameType | None) -> None:
        again = number == signal.SIGINT and self.signal_name == signal.SIGINT.name
        if not self.signal_name and self._on_first:
            self._on_first(signal.Signals(number).name)
        self.signal_name = signal.Signals(number).name
        if again or self._interrupt:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            raise KeyboardInterrupt

    def __call__(self) -> bool:
        if time.monotonic() - self._looked >= self._look_every_s:
            self._looked = time.monotonic()
            self.require_owner()
        return bool(self.signal_name)

    def require_owner(self) -> None:
        """Superseded when another attempt has taken over; asked before everything that is written."""
        if self._claim:
            self._claim.require()

    def interrupt_at_once(self, wanted: bool = True) -> None:
        """From now on a stop signal raises KeyboardInterrupt, at once if one has come; or only sets the flag again."""
        self._interrupt = wanted
        if wanted and self.signal_name:
            raise KeyboardInterrupt

    def __enter__(self) -> StopFlag:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)


def wanted_signals() -> tuple[signal.Signals, ...]:
    """The stop signals; not SIGHUP where whoever started this process wants it to be ignored, as nohup does."""
    ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return tuple(number for number in STOP_SIGNALS if not (ignored and number == signal.SIGHUP))


@dataclass(frozen=True)
class Decision:
    """What to do after a failed attempt."""

    try_again: bool
    exclude: tuple[str, ...]
    """Nodes to leave out of the next try."""


def failures_in_a_row(attempts: Sequence[Attempt]) -> int:
    """Failed attempts since the job last got further than ever before; the one that got further counts too."""
    furthest, failures = -1, 0
    for attempt in attempts:
        if attempt.progress > furthest:
            furthest, failures = attempt.progress, 0
        failures += attempt.outcome == FAILED
    return failures


def bad_nodes(attempts: Sequence[Attempt]) -> tuple[str, ...]:
    """Nodes on which the job has failed twice or more, in order of their names."""
    blamed = [attempt.failed_node for attempt in attempts if attempt.outcome == FAILED and attempt.failed_node]
    return tuple(sorted(node for node in set(blamed) if blamed.count(node) >= FAILURES_TO_EXCLUDE))


def is_repeated(attempts: Sequence[Attempt]) -> bool:
    """Whether the last two attempts failed in the same words, and the last one without a step of progress."""
    if len(attempts) < 2 or any(attempt.outcome != FAILED for attempt in attempts[-2:]):
        return False
    before, last = attempts[-2:]
    return last.progress <= before.progress and PLACE.sub("", last.reason) == PLACE.sub("", before.reason)


def decide(attempts: Sequence[Attempt], max_failures: int) -> Decision:
    """What to do after the last of these attempts has failed."""
    is_hopeless = bool(attempts) and attempts[-1].hopeless
    again = failures_in_a_row(attempts) < max_failures and not is_hopeless
    return Decision(again, bad_nodes(attempts))
