"""Numbers of a command line: what is none is refused in words that say what is allowed."""

from __future__ import annotations

import math
from typing import Any

from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

NUMBERS = ConstructorRegistry()
"""For tyro: how numbers are read."""


@NUMBERS.primitive_rule
def _number(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    if info.type is int:
        return _spec(int, "a whole number")
    return _spec(float, "a number") if info.type is float else None


def _spec(kind: type[int] | type[float], allowed: str) -> PrimitiveConstructorSpec[Any]:
    def read(words: list[str]) -> int | float:
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
        is_instance=lambda value: type(value) is kind or ("~" if kind is float and type(value) is int else False),
        str_from_instance=lambda value: [str(value)],
    )
