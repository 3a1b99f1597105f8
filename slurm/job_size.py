"""What one job asks for where that is not the profile's: nodes, GPUs, time, partition; how durations are written."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

TIME_FORMS = "MM, HH:MM:SS, D-HH, D-HH:MM or D-HH:MM:SS"
SAFE_FLAG = "printable text without spaces and without a dash in front"


@dataclass(frozen=True)
class JobSize:
    """0 and "" where nothing is said."""

    nodes: int = 0
    gpus: int = 0
    """On each node."""
    time: str = ""
    """Longest duration of one submission, in one of SLURM's forms."""
    partition: str = ""

    def or_else(self, other: JobSize) -> JobSize:
        """What this one says, and where it says nothing what the other does."""
        return JobSize(*(getattr(self, f.name) or getattr(other, f.name) for f in dataclasses.fields(self)))


def read_size(name: str, values: Mapping[str, Any]) -> JobSize:
    """A size from its keys; ValueError that names the key, its value and what is allowed."""
    known = [field.name for field in dataclasses.fields(JobSize)]
    for key, value in values.items():
        if key not in known:
            raise ValueError(f"{name} has {key!r}, allowed: {', '.join(known)}")
        is_count = isinstance(value, int) and not isinstance(value, bool) and value >= 1
        if key in ("nodes", "gpus") and not is_count:
            raise ValueError(f"{name}.{key} is {value!r}, allowed: a whole number, 1 or more")
        if key == "time" and not (isinstance(value, str) and seconds(value)):
            raise ValueError(f"{name}.time is {value!r}, allowed: more than 0 as {TIME_FORMS}")
        if key == "partition" and not (isinstance(value, str) and is_safe_flag(value)):
            raise ValueError(f"{name}.partition is {value!r}, allowed: {SAFE_FLAG}")
    return JobSize(**values)


def seconds(text: str) -> int:
    """Seconds of a duration in one of SLURM's forms; 0 for nonsense."""
    days, dash, clock = text.rpartition("-")
    parts = clock.split(":")
    numbers = [days, *parts] if dash else parts
    known_form = len(parts) <= 3 if dash else len(parts) in (1, 3)
    if not known_form or not all(re.fullmatch("[0-9]{1,6}", number) for number in numbers):
        return 0
    if not dash and len(parts) == 1:
        return 60 * int(clock)
    hours, minutes, rest = (int(part) for part in [*parts, "0", "0"][:3])
    return ((int(days or "0") * 24 + hours) * 60 + minutes) * 60 + rest


def is_safe_flag(text: str) -> bool:
    """Whether a text can stand behind a flag of sbatch."""
    return text.isprintable() and not text.startswith("-") and not any(letter.isspace() for letter in text)
