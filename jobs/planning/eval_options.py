"""Settings of evaluations as options: `--set linear.epochs=20 knn.neighbours=5,20`, read and checked."""

from __future__ import annotations

import math
import typing
from collections.abc import Iterable, Mapping
from typing import Any

from border.text import did_you_mean
from jobs.planning.recipes import Evaluation, evaluation_module
from vicreg.config_json import from_json, to_json

Options = dict[str, dict[str, Any]]
"""Settings by the evaluation's name, in JSON form."""
_KINDS = {int: "a whole number", float: "a number", bool: "True or False"}


def read_options(texts: Iterable[str], evaluations: Mapping[str, Evaluation]) -> Options:
    """What EVALUATION.SETTING=VALUE texts say; ValueError with the valid names, types and values.

    evaluations: those that are measured, by their names. Values of a list are separated by commas.
    """
    found: Options = {}
    for text in texts:
        place, equals, value = text.partition("=")
        name, dot, setting = place.partition(".")
        if not (equals and dot):
            raise ValueError(f"--set {text}: allowed: EVALUATION.SETTING=VALUE, such as linear.epochs=20")
        if name not in evaluations:
            meant = did_you_mean(name, evaluations)
            allowed = ", ".join(evaluations)
            raise ValueError(f"--set {text}: there is no evaluation {name!r} to be measured{meant}, allowed: {allowed}")
        kind = evaluation_module(evaluations[name].module).Config
        hints = typing.get_type_hints(kind)
        if setting not in hints:
            described = ", ".join(f"{field} ({_say(default)})" for field, default in to_json(kind()).items())
            raise ValueError(
                f"--set {text}: {name} has no setting {setting!r}{did_you_mean(setting, hints)}, allowed: {described}"
            )
        found.setdefault(name, {})[setting] = _value(text, value, hints[setting])
    for name, options in found.items():
        try:
            from_json(evaluation_module(evaluations[name].module).Config, evaluations[name].settings | options)
        except ValueError as error:
            said = " ".join(text for text in texts if text.startswith(f"{name}."))
            raise ValueError(f"--set {said}: {error}") from error
    return found


def _value(text: str, value: str, hint: Any) -> Any:
    """A value in JSON form, by the type of its field."""
    if typing.get_origin(hint) is tuple:
        parts = [part for part in value.strip("()[] ").split(",") if part.strip()]
        return [_value(text, part.strip(), typing.get_args(hint)[0]) for part in parts]
    if hint is str or typing.get_origin(hint) is typing.Literal:
        return value
    words = {"true": True, "false": False}
    try:
        if hint is bool:
            return words[value.lower()]
        read = hint(value)
        if not math.isfinite(read):
            raise ValueError
        return read
    except (KeyError, ValueError, OverflowError):
        allowed = _KINDS.get(hint, str(hint))
        raise ValueError(f"--set {text}: {value!r} is not what it wants, allowed: {allowed}") from None


def _say(default: Any) -> str:
    return ",".join(map(str, default)) if isinstance(default, list) else str(default)
