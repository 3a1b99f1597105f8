"""What the help says of an option, from the docstring below its field: as one paragraph, whatever the source's lines.

tyro ends a line where the docstring does, which the terminal's own lines then cut into stubs.
"""

from __future__ import annotations

import dataclasses
import typing
from types import MappingProxyType
from typing import Any

import docstring_parser

HELP = {"-h", "--help"}


def join_lines(kind: Any) -> None:
    """Say so for all fields of a dataclass, and of those that stand in its fields; of other types for those in them."""
    if not isinstance(kind, type) or not dataclasses.is_dataclass(kind):
        for part in typing.get_args(kind):
            join_lines(part)
        return
    said: dict[str, str] = {}
    for each in reversed(kind.__mro__[:-1]):
        params = docstring_parser.parse_from_object(each).params
        said |= {param.arg_name: param.description for param in params if param.description}
    hints = typing.get_type_hints(kind, include_extras=True)
    for field in dataclasses.fields(kind):
        if field.name in said:
            field.metadata = MappingProxyType({**field.metadata, "help": " ".join(said[field.name].split())})
        join_lines(hints[field.name])
