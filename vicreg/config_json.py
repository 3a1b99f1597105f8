"""Configurations as JSON: how they travel to jobs and stand in run folders, and in what two of them differ."""

from __future__ import annotations

import dataclasses
import json
import typing
from typing import Any, TypeVar

from border.documents import checked, parse_json
from vicreg.config import require


def to_json(config: Any) -> dict[str, Any]:
    """A configuration as a JSON-able dictionary (tuples become lists)."""
    return parse_json(json.dumps(dataclasses.asdict(config)), dict[str, Any])


T = TypeVar("T")


def from_json(kind: type[T], values: dict[str, Any], **kinds: type) -> T:
    """A configuration from its JSON form; unknown fields are refused by name, missing ones take their default.

    kinds: types of fields that a value decides, such as a method's own `Config`.
    """
    require(isinstance(values, dict), kind.__name__, values, "an object")
    hints = typing.get_type_hints(kind) | kinds
    unknown = sorted(values.keys() - hints.keys())
    require(not unknown, kind.__name__, unknown, f"the fields {', '.join(hints)}")
    return kind(**{name: _from_json(hints[name], value, f"{kind.__name__}.{name}") for name, value in values.items()})


def _from_json(hint: Any, value: Any, name: str) -> Any:
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return from_json(hint, value)
    if typing.get_origin(hint) is tuple:
        kind = typing.get_args(hint)[0]
        require(isinstance(value, list | tuple), name, value, "a list")
        return tuple(_from_json(kind, entry, f"an entry of {name}") for entry in value)
    return checked(value, hint, name)


MAY_CHANGE = frozenset(
    ["data.workers", "data.batches_ahead", "data.val", "data.on_bad", "online.stop_if", "online.keep_best"]
    + [f"train.{name}" for name in ("capture", "keep_checkpoints", "checkpoint_every_steps", "checkpoint_every_min")]
    + [
        f"train.{name}"
        for name in ("log_every_steps", "stop_check_every_steps", "max_skipped_steps", "max_rollbacks", "wandb_project")
    ]
)
"""Fields that a resumed run may change, since no weight depends on them."""


def flat(values: Any, prefix: str = "") -> dict[str, Any]:
    """Every field of a JSON form by its full name; entries of a list of configurations by their number."""
    if isinstance(values, list) and values and isinstance(values[0], dict):
        values = dict(enumerate(values))
    if not isinstance(values, dict):
        return {prefix: values}
    fields: dict[str, Any] = {}
    for key, value in values.items():
        fields |= flat(value, f"{prefix}.{key}" if prefix else str(key))
    return fields


def differing_fields(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """The fields in which two configurations differ, as "name: old -> new", but for those of MAY_CHANGE."""
    before, after = flat(old), flat(new)
    names = sorted((before.keys() | after.keys()) - MAY_CHANGE)
    return [
        f"{name}: {before.get(name)!r} -> {after.get(name)!r}" for name in names if before.get(name) != after.get(name)
    ]
