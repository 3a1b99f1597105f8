"""How long this rank's host has waited in collectives: the rest of a step is its own work, by which ranks differ."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

_waited_s = [0.0]


def waited_s() -> float:
    """Seconds in collectives since the process began; those of a GPU go on without the host, and do not count."""
    return _waited_s[0]


def counted(collective: Callable[P, R]) -> Callable[P, R]:
    """The same function, whose time counts as waiting."""

    @functools.wraps(collective)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        start = time.monotonic()
        try:
            return collective(*args, **kwargs)
        finally:
            _waited_s[0] += time.monotonic() - start

    return call
