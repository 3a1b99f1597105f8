"""What a published data set, evaluation and number consist of: the shapes that protocols.py and detection's fill."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class DataSet:
    """A published data set, known by its numbers: whole or not at all."""

    name: str
    num_train: int
    num_val: int
    num_classes: int


@dataclass(frozen=True)
class Preset:
    """A published evaluation: its settings as far as they differ from its module's defaults, and who published them."""

    module: str
    settings: dict[str, Any]
    source: str
    data: str = ""
    """Name of the data set whose betons it takes (data/NAME/, or the cluster's profile); empty: the run's own."""
    baselines: tuple[str, ...] = ()
    """What is measured beside the trained encoder where it is asked for by its name."""


@dataclass(frozen=True)
class Column:
    """One published number per method."""

    title: str
    source: str
    data_set: str
    values: dict[str, float]
    evaluation: str
    """The preset that measures the same."""
    metric: str
    """Metric of that evaluation."""
