"""Everything that is printed or logged goes through here, so that no name, reason or log is obeyed by a terminal.

It stands at the end of the way and not where texts are put together, as these are hundreds. Markup is off: what looks
like a tag of rich in a name is part of the name, and colour comes by `style`.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from border import VERSION
from border.text import visible, visible_lines
from border.waiting_threads import wait_asleep

KEPT = "\n\t"


class Terminal(Console):
    """rich's console without markup, on which control characters are seen."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Any plain text, on one line: seen before its width is measured."""
        return super().render_str(visible(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """What is left in renderables that hold texts of their own."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=visible(segment.text, KEPT))

    def on_broken_pipe(self) -> None:
        """Whoever reads has seen enough: as when a terminal is closed, who has work to save is told to stop."""
        self.quiet = True
        handler = signal.getsignal(signal.SIGHUP)
        if handler is signal.SIG_DFL:
            raise BrokenPipeError
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what else is said until the end
        if handler is not signal.SIG_IGN:
            signal.raise_signal(signal.SIGHUP)


class SeenFormatter(logging.Formatter):
    """One line per record, whatever is in it; a traceback keeps its lines."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """The record's line."""
        record.message = visible(record.message)
        return super().formatMessage(record)

    def formatException(
        self,
        ei: tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None],
    ) -> str:
        """The lines of a traceback."""
        return visible(super().formatException(ei), KEPT)


def log_to(forms: Mapping[logging.Handler, str]) -> None:
    """Send what is logged from now on to these handlers, to each in its form."""
    for handler, form in forms.items():
        handler.setFormatter(SeenFormatter(form))
    logging.basicConfig(level=logging.INFO, handlers=forms, force=True)


def say(text: object = "") -> None:
    """Print a text on standard output."""
    print(visible_lines(text), flush=True)


def complain(text: object) -> None:
    """Print a text on standard error."""
    print(visible_lines(text), file=sys.stderr, flush=True)


def typed(main: Callable[[list[str]], int]) -> int:
    """A command with what was typed behind its name; returns the exit code. Every command says its version."""
    if sys.argv[1:] == ["--version"]:
        say(f"vicreg-suite {VERSION}")
        return 0
    wait_asleep()
    return main(sys.argv[1:])
