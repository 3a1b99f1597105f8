"""A short document of headings, texts, commands and tables: made once, rendered to the terminal and to Markdown.

Its texts hold names of files, classes and runs; they are made harmless here, each in the way of what it goes to.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text as RichText

from border.text import markdown as escape
from border.text import visible


@dataclass(frozen=True)
class Heading:
    """A line that names what follows."""

    text: str


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Code:
    """A command to run."""

    text: str


@dataclass
class Table:
    """Cells as text; the first `num_names` columns name the row, the others hold numbers."""

    title: str
    headers: list[str]
    num_names: int
    rows: list[list[str]] = field(default_factory=list)
    best: set[tuple[int, int]] = field(default_factory=set)
    """(row, column) of the cells to mark."""
    own: set[int] = field(default_factory=set)
    """Rows of what was measured here, in a table that has others too."""

    def add(self, names: list[str], values: list[float | None], deviations: list[float | None], mark: bool) -> None:
        """A row of numbers, to a tenth of a percent.

        Where there are several the largest is marked, as printed, so equals are all marked.
        """
        printed = [None if value is None else f"{value:.1f}" for value in values]
        known = [float(text) for text in printed if text is not None]
        cells = list(names)
        for text, deviation in zip(printed, deviations, strict=True):
            if mark and text is not None and len(known) > 1 and float(text) == max(known):
                self.best.add((len(self.rows), len(cells)))
            spread = "" if deviation is None else f" ± {deviation:.1f}"
            cells.append("–" if text is None else text + spread)
        self.rows.append(cells)

    def aligned(self) -> list[list[str]]:
        """The cells, the best with an asterisk; the decimal points of a column of numbers stand below each other."""
        rows = [
            [f"{cell} *" if (row, column) in self.best else cell for column, cell in enumerate(cells)]
            for row, cells in enumerate(self.rows)
        ]
        for column in range(self.num_names, len(self.headers)):
            tail = max((len(_tail(cells[column])) for cells in rows), default=0)
            for cells in rows:
                cells[column] += " " * (tail - len(_tail(cells[column])))
        return rows


Block = Heading | Text | Code | Table


def _tail(cell: str) -> str:
    """What follows the number: standard deviation and mark."""
    return "".join(cell.partition(" ")[1:])


def show(blocks: list[Block], console: Console) -> None:
    """Print a document."""
    for block in blocks:
        if isinstance(block, Table):
            console.print(RichText(visible(block.title), style="italic"))
            console.print(_rich_table(block))
        elif isinstance(block, Heading):
            console.print(RichText(visible(block.text), style="bold"))
        elif isinstance(block, Code):
            console.print(RichText(f"    {visible(block.text)}", style="cyan"), soft_wrap=True)
        else:
            console.print(RichText(visible(block.text)))
        console.print()


def _rich_table(table: Table) -> RichTable:
    drawn = RichTable(
        box=SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1),
    )
    for column, header in enumerate(table.headers):
        is_name = column < table.num_names
        drawn.add_column(header, justify="left" if is_name else "right", no_wrap=is_name, overflow="fold")
    for row, cells in enumerate(table.aligned()):
        styles = ["bold green" if (row, column) in table.best else "" for column in range(len(cells))]
        drawn.add_row(*(RichText(visible(cell), style=style) for cell, style in zip(cells, styles, strict=True)))
    return drawn


def markdown(blocks: list[Block]) -> str:
    """The document as Markdown."""
    parts: list[str] = []
    for block in blocks:
        if isinstance(block, Heading):
            parts.append(f"# {escape(block.text)}")
        elif isinstance(block, Code):
            parts.append(f"    {visible(block.text)}")
        elif isinstance(block, Text):
            parts.append(escape(block.text))
        else:
            parts += [escape(block.title) + ":", _markdown_table(block)]
    return "\n\n".join(parts) + "\n"


def _markdown_table(table: Table) -> str:
    cells = [list(map(escape, table.headers))]
    for row, values in enumerate(table.rows):
        escaped = enumerate(map(escape, values))
        cells.append([f"**{cell}**" if (row, column) in table.best else cell for column, cell in escaped])
    widths = [max(3, *(len(line[column]) for line in cells)) for column in range(len(table.headers))]

    def line(values: list[str]) -> str:
        padded = [
            value.ljust(width) if column < table.num_names else value.rjust(width)
            for column, (value, width) in enumerate(zip(values, widths, strict=True))
        ]
        return f"| {' | '.join(padded)} |"

    rules = [
        "-" * (width + 2) if column < table.num_names else "-" * (width + 1) + ":"
        for column, width in enumerate(widths)
    ]
    return "\n".join([line(cells[0]), f"|{'|'.join(rules)}|", *map(line, cells[1:])])
