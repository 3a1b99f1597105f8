"""How every setting is checked when it is built: by its name, its value and what is allowed."""

from __future__ import annotations


def require(condition: bool, name: str, value: object, allowed: str) -> None:
    """Raise a ValueError that names the field, its value and what is allowed."""
    if not condition:
        raise ValueError(f"{name} is {value!r}, allowed: {allowed}")
