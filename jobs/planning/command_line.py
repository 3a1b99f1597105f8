"""The command line as every command reads it: its help fits the terminal."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import tyro

from border.help_texts import HELP, join_lines
from border.text import shell_command
from border.typed_numbers import NUMBERS
from vicreg.config_json import flat

T = TypeVar("T")


def read_command(command: type[T], arguments: Sequence[str], description: str = "", default: T | None = None) -> T:
    """The command line as that dataclass; leaves with the help, or with what is wrong.

    description: instead of the dataclass's docstring; its lines are wrapped to the terminal.
    """
    said = wrapped(description or command.__doc__ or "")
    if HELP & set(arguments):
        join_lines(command)
    config, numbers = (tyro.conf.FlagCreatePairsOff,), NUMBERS
    if default is None:
        return tyro.cli(command, args=arguments, description=said, config=config, registry=numbers)
    return tyro.cli(command, args=arguments, description=said, config=config, registry=numbers, default=default)


def wrapped(text: str) -> str:
    """Each line of a text on as many as the terminal's columns want; names with hyphens and paths stay whole.

    What goes on begins further in: tyro joins lines that begin at the margin.
    """
    columns = shutil.get_terminal_size().columns
    return "\n".join(_filled(line, columns) for line in text.splitlines())


def _filled(line: str, columns: int) -> str:
    indent = " " * (len(line) - len(line.lstrip()))
    return textwrap.fill(
        line.lstrip(),
        columns,
        initial_indent=indent,
        subsequent_indent=f"{indent}  ",
        break_on_hyphens=False,
        break_long_words=False,
    )


def options(values: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Every field of a configuration with its value, as they are given on the command line."""
    for name, value in flat(values).items():
        parts = value if isinstance(value, list) else [value]
        yield name.replace("_", "-"), shell_command(*parts)


def or_none(kind: Callable[[str], Any]) -> Callable[[str], Any]:
    """Such a value of a text, None where the text is none: what is wrong is left to whoever reads the options."""

    def read(text: str) -> Any:
        try:
            return kind(text)
        except ValueError:
            return None

    return read
