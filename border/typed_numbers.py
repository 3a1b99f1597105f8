"""Numbers of a command line: what is none is refused in words that say what is allowed."""

from __future__ import annotations

import math
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

NUMBERS = ConstructorRegistry()
"""For tyro: how numbers are read."""


@NUMBERS.primitive_rule
def _number(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    kinds = get_args(info.type) if get_origin(info.type) in (Union, UnionType) else (info.type,)
    number = next((kind for kind in (int, float) if {*kinds} - {NoneType} == {kind}), None)
    return _spec(number, NoneType in kinds) if number else None


def _spec(kind: type[int] | type[float], or_none: bool) -> PrimitiveConstructorSpec[Any]:
    allowed = ("a whole number" if kind is int else "a number") + (", or None" if or_none else "")

    def is_one(value: object) -> bool | Literal["~"]:
        if kind is float and type(value) is int:
            return "~"
        return type(value) is kind or (or_none and value is None)

    def read(words: list[str]) -> int | float | None:
        if or_none and words[0] == "None":
            return None
        try:
            number = kind(words[0])
            if math.isfinite(number):
                return number
        except (ValueError, OverflowError):
            pass
        raise ValueError(f"it is {words[0]!r}, allowed: {allowed}")

    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=kind.__name__.upper(),
        instance_from_str=read,
        is_instance=is_one,
        str_from_instance=lambda value: [str(value)],
    )
