"""Configurations as JSON: how they travel to jobs and stand in run folders, and in what two of them differ."""

from __future__ import annotations

import dataclasses
import json
import typing
from typing import Any, TypeVar

from vicreg.config import require


def to_json(config: Any) -> dict[str, Any]:
    """A configuration as a JSON-able dictionary (tuples become lists)."""
    result: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config)))
    return result


T = TypeVar("T")


def from_json(kind: type[T], values: dict[str, Any]) -> T:
    """A configuration from its JSON form; unknown fields are refused by name, missing ones take their default."""
    hints = typing.get_type_hints(kind)
    unknown = sorted(values.keys() - hints.keys())
    require(not unknown, kind.__name__, unknown, f"the fields {', '.join(hints)}")
    arguments: dict[str, Any] = {}
    for name, value in values.items():
        hint = hints[name]
        if isinstance(hint, type) and dataclasses.is_dataclass(hint):
            arguments[name] = from_json(hint, value)
        elif typing.get_origin(hint) is tuple:
            arguments[name] = tuple(value)
        else:
            arguments[name] = value
    return kind(**arguments)


MAY_CHANGE = frozenset(
    ["data.workers", "data.batches_ahead", "data.val"]
    + [f"train.{name}" for name in ("keep_checkpoints", "checkpoint_every_steps", "checkpoint_every_min")]
    + [f"train.{name}" for name in ("log_every_steps", "stop_check_every_steps", "max_skipped_steps", "wandb_project")]
)
"""Fields that a resumed run may change, since no weight depends on them."""


def differing_fields(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """The fields in which two configurations differ, as "name: old -> new", but for those of MAY_CHANGE."""
    lines: list[str] = []
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            lines += differing_fields(before, after, f"{prefix}{key}.")
        elif before != after and prefix + key not in MAY_CHANGE:
            lines.append(f"{prefix}{key}: {before!r} -> {after!r}")
    return lines
