"""What a drill is, how its tries are counted, and the table of all."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text


@dataclass(frozen=True)
class Drill:
    """Something that goes wrong, and what must hold afterwards."""

    name: str
    attempt: Callable[[int, Path], None]
    """Does it once, told the number of the try and a new folder; raises where something was lost."""
    tries: int = 1


@dataclass(frozen=True)
class Tally:
    """What became of a drill."""

    name: str
    tries: int
    survived: int
    seconds: float
    losses: tuple[str, ...]
    """What was lost, in words."""


def carry_out(drill: Drill, folder: Path, console: Console, tries: int = 0) -> Tally:
    """All tries of a drill, or fewer; each loss is said at once."""
    start, losses = time.monotonic(), []
    number = tries or drill.tries
    for which in range(number):
        place = folder / f"{drill.name.replace(' ', '-')}_{which}"
        place.mkdir(parents=True)
        try:
            drill.attempt(which, place)
        except Exception as error:
            losses.append(f"try {which + 1}: {type(error).__name__}: {error}")
            console.print(Text(f"{drill.name}, {losses[-1]}"), style="red", highlight=False)
            console.print(Text(traceback.format_exc()), style="dim", highlight=False)
    tally = Tally(drill.name, number, number - len(losses), time.monotonic() - start, tuple(losses))
    console.print(f"{drill.name}: {tally.survived} of {tally.tries} survived ({tally.seconds:.0f} s)", highlight=False)
    return tally


def table(tallies: Sequence[Tally]) -> Table:
    """Drill, tries, survived, lost; and all together."""
    shown = Table(box=None, pad_edge=False)
    shown.add_column("drill")
    for title in ("tries", "survived", "lost", "seconds"):
        shown.add_column(title, justify="right")
    for tally in tallies:
        lost = tally.tries - tally.survived
        cells = [str(tally.tries), str(tally.survived), str(lost), f"{tally.seconds:.0f}"]
        shown.add_row(Text(tally.name), *cells, style="red" if lost else "")
    tries, survived = sum(tally.tries for tally in tallies), sum(tally.survived for tally in tallies)
    seconds = sum(tally.seconds for tally in tallies)
    shown.add_section()
    shown.add_row("all", str(tries), str(survived), str(tries - survived), f"{seconds:.0f}")
    return shown
