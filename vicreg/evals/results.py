"""What an evaluation leaves behind: `run/evals/<name>/result.json`, and `<name>@<subject>` for what stands beside it.

A result says what it was computed from, so that anybody can tell whether it still holds.
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from border.documents import parse_json
from disk.whole_files import write_text
from vicreg.config import require
from vicreg.config_json import differing_fields

log = logging.getLogger(__name__)

RESULT_FILE = "result.json"
REASON_FILE = "not_measured.json"
EVALS = "evals"
TRAINED, RANDOM, PIXELS = "trained", "random", "pixels"
SUBJECTS = {TRAINED: "trained", RANDOM: "random weights", PIXELS: "raw pixels"}
"""What can be measured besides a run's checkpoints, and how it is called in print."""
BASELINES = (RANDOM, PIXELS)
STEP = "step_"  # how the name of a checkpoint begins, which is a subject too
TYPES = {"float32": "float32", "bf16": "bfloat16", "fp16": "float16"}  # by the precision that is asked for
OTHER = "other_"  # and that of another run's encoder


def say_subject(subject: str) -> str:
    """A subject in print; step_00000500 -> step 500, other_NAME -> NAME's encoder."""
    if subject.startswith(OTHER):
        return f"{subject.removeprefix(OTHER)}'s encoder"
    return SUBJECTS.get(subject) or f"step {int(subject.removeprefix(STEP)):,}"


class CannotMeasure(ValueError):
    """These data, or these settings, do not allow an evaluation: every rank finds so alike, before they meet."""


@dataclass(frozen=True)
class Measured:
    """What an evaluation returns, the same on every rank."""

    metrics: dict[str, float]
    """In percent."""
    details: dict[str, Any] = field(default_factory=dict)
    """What stands behind the metrics, JSON-able: curves over epochs, numbers per class."""


@dataclass(frozen=True)
class Result:
    """One evaluation of one subject."""

    evaluation: str
    """Name in the recipe."""
    module: str
    """File in vicreg/evals."""
    subject: str
    """trained, random, pixels, or the name of a checkpoint."""
    metrics: dict[str, float]
    """In percent."""
    settings: dict[str, Any]
    """The evaluation's whole configuration."""
    data: dict[str, Any]
    """As `data_identity.describe` says it."""
    num_classes: int
    num_features: int
    encoder_sha256: str
    duration_s: float
    """Including the features if no earlier evaluation of the same job had asked for them."""
    num_ranks: int
    device: str
    versions: dict[str, str]
    finished: str
    """When: ISO 8601, UTC."""
    details: dict[str, Any] = field(default_factory=dict)
    """As `Measured` has them."""
    options: dict[str, Any] = field(default_factory=dict)
    """Those of the settings that were given by option, not by the recipe; they hold until others are given."""
    notes: list[str] = field(default_factory=list)
    """In what the settings were fitted to few images."""
    precision: str = "float32"
    """Arithmetic of the encoder: float32, bfloat16 or float16."""


def folder(run: Path, evaluation: str, subject: str) -> Path:
    """Where the result of an evaluation lies."""
    known = subject in SUBJECTS or subject.startswith((STEP, OTHER))
    require(known, "subject", subject, f"{', '.join(SUBJECTS)}, the name of a checkpoint or {OTHER}NAME")
    return run / EVALS / (evaluation if subject == TRAINED else f"{evaluation}@{subject}")


def write(run: Path, result: Result) -> None:
    """Write a result, complete or not at all; why there was none is forgotten."""
    place = folder(run, result.evaluation, result.subject)
    write_text(place / RESULT_FILE, json.dumps(asdict(result), indent=1) + "\n")
    (place / REASON_FILE).unlink(missing_ok=True)


def write_reason(run: Path, evaluation: str, subject: str, reason: str) -> None:
    """Keep why there is no result."""
    write_text(folder(run, evaluation, subject) / REASON_FILE, json.dumps({"reason": reason}) + "\n")


def read_reason(run: Path, evaluation: str, subject: str) -> str:
    """Why there is no result; empty where nobody said."""
    try:
        path = folder(run, evaluation, subject) / REASON_FILE
        return str(parse_json(path.read_bytes(), dict[str, Any]).get("reason", ""))
    except (OSError, ValueError):
        return ""


def read(run: Path, evaluation: str, subject: str) -> Result | None:
    """The result of an evaluation, or None where there is none that can be read; a damaged one is said."""
    path = folder(run, evaluation, subject) / RESULT_FILE
    try:
        return Result(**parse_json(path.read_bytes(), dict[str, Any]))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        log.warning("%s is damaged or from another version (%s); it counts as missing", path, error)
        return None


def read_all(run: Path) -> list[Result]:
    """All results of a run that can be read, by their folders' names."""
    found: list[Result | None] = []
    for path in sorted((run / EVALS).glob(f"*/{RESULT_FILE}")):
        evaluation, _, subject = path.parent.name.partition("@")
        try:
            found.append(read(run, evaluation, subject or TRAINED))
        except ValueError as error:
            log.warning("%s is not looked at: %s", path, error)
    return [result for result in found if result]


def changes(
    result: Result, module: str, settings: dict[str, Any], data: dict[str, Any], sha256: str, precision: str = "auto"
) -> list[str]:
    """In what a result differs from what would be computed now; nothing if it still holds.

    precision: auto accepts that of the result, whatever it is.
    """
    found = differing_fields({"module": result.module}, {"module": module})
    found += differing_fields(result.settings, settings)
    wanted = TYPES.get(precision)
    if wanted and result.precision != wanted:
        found.append(f"precision: {result.precision} -> {wanted}")
    if result.encoder_sha256 != sha256:
        found.append("other weights")
    before, after = without_paths(result.data), without_paths(data)
    if before != after:
        parts = sorted(key for key in before.keys() | after.keys() if before.get(key) != after.get(key))
        found.append(f"other data ({', '.join(parts)})")
    return found


def without_paths(data: dict[str, Any]) -> dict[str, Any]:
    """Data that were only moved are the same."""
    return {
        key: {name: part for name, part in value.items() if name != "path"} if isinstance(value, dict) else value
        for key, value in data.items()
    }
