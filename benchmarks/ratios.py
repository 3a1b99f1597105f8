"""A claim as a ratio of two measurements of one run, with its target; how all benchmarks print theirs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Ratio:
    """One measured ratio, and what it must reach."""

    what: str
    """This over that, such as "two crops / two FFCV pipelines, images per second"."""
    measured: float
    target: float
    at_least: bool = True
    """Whether the target is a lower bound; else it is an upper one."""

    @property
    def is_reached(self) -> bool:
        """Whether the measured ratio is on the right side of the target."""
        return self.measured >= self.target if self.at_least else self.measured <= self.target


def print_ratios(ratios: Sequence[Ratio], console: Console, title: str = "targets") -> None:
    """A table of the ratios beside their targets; what falls short stands out."""
    table = Table("ratio", title=title)
    for heading in ("measured", "target"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for ratio in ratios:
        target = f"{'at least' if ratio.at_least else 'at most'} {ratio.target:.3g}"
        verdict = "reached" if ratio.is_reached else "[bold red]MISSED[/]"
        table.add_row(ratio.what, f"{ratio.measured:.3g}", target, verdict)
    console.print(table)
