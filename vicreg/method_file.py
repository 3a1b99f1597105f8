"""What a method is told and how its numbers are said: all of it that is read without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from vicreg.config import MethodConfig, PretrainConfig


@dataclass(frozen=True)
class Term:
    """How a number that a method logs is said."""

    title: str
    sentence: str
    """What it means, for the report."""
    short: str = ""
    """Its name on the progress line; empty: not shown there."""
    decimals: int = 4
    spans_decades: bool = False
    """Whether a curve may need a logarithmic axis."""
    collapsed_below: float = 0.0
    """Values below this are said to be a collapse; 0: none are."""


@dataclass(frozen=True)
class Published:
    """A named run of a method."""

    source: str
    expected: str
    pretrain: PretrainConfig


class MethodFile(Protocol):
    """What a file of `methods/` has."""

    Config: type[MethodConfig]
    RECIPES: Mapping[str, Published]
    TERMS: Mapping[str, Term]
    """How what `forward` returns is said, "loss" first."""
