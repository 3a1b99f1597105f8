"""JSON and TOML that somebody else may have written: read in one way, whatever lies there.

Valid syntax is not yet what was meant: `null`, a list, a number, ten thousand brackets, a key that stands twice. What
does not have the expected shape is one ValueError that names the place, and no other kind of error.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import tomllib
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
LARGEST = 2**63  # no count, size or time is larger, and floats and clocks cannot hold much more
_NAMES = {dict: "an object", list: "a list", str: "a text", int: "a whole number", float: "a number", bool: "a bool"}


class Unreadable(ValueError):
    """A document that is not what it should be; one line."""


def parse_json(text: str | bytes, shape: type[T], name: str = "it") -> T:
    """The value of a JSON text if it has this shape; Unreadable, beginning with `name`, if not.

    shape: a type of JSON (`dict[str, Any]`, `list[int]`, `float | None`), a TypedDict (more keys may be there) or a
    dataclass (more may not). NaN and infinities are numbers, as Python writes them.
    """
    try:
        plain = text.decode("utf-8") if isinstance(text, bytes) else text
        value = _DECODER.decode(plain.removeprefix("\ufeff"))
    except RecursionError as error:
        raise Unreadable(f"{name} is nested too deeply for a JSON text that was meant") from error
    except ValueError as error:
        raise Unreadable(f"{name} is no JSON text: {error}") from error
    return typing.cast(T, checked(value, shape, name))


def read_json(path: Path, shape: type[T], cure: str) -> T:
    """`parse_json` of a file; Unreadable names it and the cure. OSError where it cannot be read."""
    content = path.read_bytes()
    try:
        return parse_json(content, shape)
    except Unreadable as error:
        raise Unreadable(f"{path} is damaged ({error}); {cure}") from error


def parse_toml(text: bytes) -> dict[str, Any]:
    """The tables of a TOML text; Unreadable if it is none."""
    try:
        return tomllib.loads(text.decode("utf-8").removeprefix("\ufeff"))
    except UnicodeDecodeError as error:
        raise Unreadable(f"not UTF-8 text: {error}") from error
    except RecursionError as error:
        raise Unreadable("not TOML that was meant: nested too deeply") from error
    except ValueError as error:
        raise Unreadable(f"not valid TOML: {error}") from error


def checked(value: Any, shape: Any, name: str) -> Any:
    """A value of JSON as its shape has it (lists become tuples, objects dataclasses); Unreadable for another."""
    origin, arguments = typing.get_origin(shape), typing.get_args(shape)
    if shape is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        return _one_of(value, arguments, name)
    if origin is typing.Literal:
        _require(value in arguments and isinstance(value, str | int), name, value, " or ".join(map(repr, arguments)))
        return value
    if dataclasses.is_dataclass(shape):
        return _record(value, typing.cast(type, shape), name)
    if typing.is_typeddict(shape):
        return _entries(value, shape, name)
    if shape in (dict, Mapping) or origin in (dict, Mapping):
        _require(isinstance(value, dict), name, value, _NAMES[dict])
        entry = arguments[1] if arguments else Any
        return {key: checked(item, entry, f"{name}[{key!r}]") for key, item in value.items()}
    if shape in (list, tuple) or origin in (list, tuple):
        _require(isinstance(value, list | tuple), name, value, _NAMES[list])
        return (origin or shape)(_items(value, arguments, name))
    is_right = isinstance(value, int | float if shape is float else shape)
    is_right = is_right and (shape is bool or not isinstance(value, bool))
    is_right = is_right and (not isinstance(value, int) or abs(value) < LARGEST)
    _require(is_right, name, value, _NAMES.get(shape, "null" if shape is types.NoneType else str(shape)))
    return value


def _one_of(value: Any, shapes: tuple[Any, ...], name: str) -> Any:
    faults = []
    for shape in shapes:
        try:
            return checked(value, shape, name)
        except Unreadable as error:
            faults.append(error)
    raise faults[0]


def _items(value: list[Any], shapes: tuple[Any, ...], name: str) -> list[Any]:
    """The entries of a list; a tuple of several types has as many of them."""
    if len(shapes) == 2 and shapes[1] is Ellipsis:
        shapes = shapes[:1]
    elif len(shapes) > 1:
        _require(len(value) == len(shapes), name, value, f"a list of {len(shapes)}")
        return [checked(item, shape, f"{name}[{i}]") for i, (item, shape) in enumerate(zip(value, shapes, strict=True))]
    shape = shapes[0] if shapes else Any
    return [checked(item, shape, f"{name}[{i}]") for i, item in enumerate(value)]


def _record(value: Any, kind: type, name: str) -> Any:
    _require(isinstance(value, dict), name, value, _NAMES[dict])
    hints = _hints(kind)
    unknown = sorted(value.keys() - hints.keys())
    _require(not unknown, name, unknown, f"the fields {', '.join(hints)}")
    missing = [
        field.name
        for field in dataclasses.fields(kind)
        if field.name not in value
        and field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise Unreadable(f"{name} lacks {', '.join(missing)}")
    return kind(**{key: checked(item, hints[key], f"{name}[{key!r}]") for key, item in value.items()})


def _entries(value: Any, shape: Any, name: str) -> dict[str, Any]:
    _require(isinstance(value, dict), name, value, _NAMES[dict])
    missing = sorted(_required(shape) - value.keys())
    if missing:
        raise Unreadable(f"{name} lacks {', '.join(missing)}")
    hints = _hints(shape)
    return {key: checked(item, hints.get(key, Any), f"{name}[{key!r}]") for key, item in value.items()}


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    return typing.get_type_hints(kind)


@functools.cache
def _required(kind: Any) -> frozenset[str]:
    """Keys that a TypedDict must have. Its own `__required_keys__` does not see through annotations that are texts."""
    hints = typing.get_type_hints(kind, include_extras=True)
    return frozenset(key for key, hint in hints.items() if typing.get_origin(hint) is not typing.NotRequired)


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        double = next(name for number, (name, _) in enumerate(pairs) if name in dict(pairs[:number]))
        raise ValueError(f"the key {double[:80]!r} stands twice")
    return found


def _require(is_right: bool, name: str, value: Any, allowed: str) -> None:
    if not is_right:
        shown = repr(value)
        raise Unreadable(f"{name} is {shown if len(shown) <= 80 else shown[:77] + '...'}, allowed: {allowed}")


_DECODER = json.JSONDecoder(object_pairs_hook=_without_doubles)
