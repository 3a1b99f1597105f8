"""What is said of evaluations by option, read and checked: `--set linear.epochs=20 knn.neighbours=5,20`, baselines."""

from __future__ import annotations

import math
import re
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from border.text import did_you_mean
from jobs.planning.recipes import Evaluation, chosen_evaluations, evaluation_settings
from slurm.cluster import Cluster
from vicreg.config_json import from_json, to_json
from vicreg.evals.results import BASELINES, OTHER
from vicreg.run_files import encoder_path

Options = dict[str, dict[str, Any]]
"""Settings by the evaluation's name, in JSON form."""
_KINDS = {int: "a whole number", float: "a number", bool: "True or False"}


def settings_given(texts: Sequence[str], recipe: str, names: Sequence[str]) -> Options:
    """What `--set` says of the evaluations that are chosen."""
    return read_options(texts, {each.name: each for each in chosen_evaluations(recipe, names)})


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
        kind = evaluation_settings(evaluations[name].module)
        hints = typing.get_type_hints(kind)
        if setting not in hints:
            described = ", ".join(f"{field} ({_say(default)})" for field, default in to_json(kind()).items())
            raise ValueError(
                f"--set {text}: {name} has no setting {setting!r}{did_you_mean(setting, hints)}, allowed: {described}"
            )
        found.setdefault(name, {})[setting] = _value(text, value, hints[setting])
    for name, options in found.items():
        try:
            from_json(evaluation_settings(evaluations[name].module), evaluations[name].settings | options)
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


def other_encoders(baselines: Sequence[str]) -> dict[str, str]:
    """The other run folders among the baselines, by what their encoders are called as subjects.

    ValueError for what is neither a baseline's name nor a finished run, and for two of one name.
    """
    found: dict[str, str] = {}
    for name in baselines:
        if name in BASELINES:
            continue
        path = Path(name)
        if not encoder_path(path).is_file():
            allowed = f"{', '.join(BASELINES)}, or a finished run (jobs/pretrain.py, jobs/import_encoder.py)"
            raise ValueError(f"baselines is {name}{did_you_mean(name, BASELINES)}, allowed: {allowed}")
        subject = OTHER + re.sub(r"[^A-Za-z0-9._-]", "_", path.absolute().name)
        if subject in found:
            raise ValueError(f"baselines has two folders called {path.name}, allowed: different names")
        found[subject] = name
    return found


def require_cluster(jobs: Sequence[str], cluster: Cluster) -> None:
    """ValueError where jobs are sized and there are none."""
    if jobs and cluster.scheduler != "slurm":
        raise ValueError("--jobs sizes the jobs of a cluster; on this machine one job does all, see --gpus")


def absolute_baselines(names: Sequence[str]) -> tuple[str, ...]:
    """Baselines with run folders that hold on the nodes too; ValueError for what is none."""
    other_encoders(names)  # raises what it objects to
    return tuple(name if name in BASELINES else str(Path(name).absolute()) for name in names)
