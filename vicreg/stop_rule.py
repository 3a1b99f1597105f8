"""When a run ends before its last epoch: what was measured online at an epoch is on the wrong side of a number.

A rule is looked at once, after its epoch, so whether a run ends early is a function of its weights there, and a run
that was killed and goes on decides the same.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from border.documents import read_json
from vicreg.checked import require

MEASURES = ("online_top1", "knn_top1")
"""What is measured online, in percent."""
EARLY_END_FILE = "ended_early.json"
"""In the folder of a run that a rule has ended."""
_RULE = re.compile(r"(\w+)\s*([<>])\s*(\d+(?:\.\d+)?)\s*@\s*(\d+)")


@dataclass(frozen=True)
class StopRule:
    """End the run after `epoch` epochs if the measure is below (<) or above (>) the value."""

    measure: str
    sign: str
    value: float
    epoch: int
    """Counted from 1."""

    def said_of(self, measured: Mapping[str, float]) -> str:
        """Why the run ends after what was measured; empty where it goes on."""
        found = measured[self.measure]
        ends = found < self.value if self.sign == "<" else found > self.value
        side = "below" if self.sign == "<" else "above"
        return f"{self.measure} was {found:.2f} after epoch {self.epoch}, {side} {self.value:g}" if ends else ""


def stop_rules(text: str, every_epochs: int, neighbours: int) -> tuple[StopRule, ...]:
    """The rules of a text such as "online_top1<30@20,knn_top1<50@40"; ValueError for what could never be looked at.

    every_epochs: from one measurement to the next, 0 for none; neighbours: 0 where knn_top1 is not measured.
    """
    if not text:
        return ()
    require(every_epochs > 0, "stop_if", text, "empty where nothing is measured online; see --online.every-epochs")
    measures = [measure for measure in MEASURES if neighbours or measure != "knn_top1"]
    form = f"MEASURE<PERCENT@EPOCH, also with >, several joined by commas; measures: {', '.join(measures)}"
    rules: list[StopRule] = []
    for part in text.split(","):
        found = _RULE.fullmatch(part.strip())
        require(found is not None and found[1] in measures, "stop_if", text, form)
        assert found is not None
        rule = StopRule(found[1], found[2], float(found[3]), int(found[4]))
        is_measured = rule.epoch > 0 and rule.epoch % every_epochs == 0
        require(is_measured, "stop_if", text, f"epochs that are measured, multiples of every_epochs ({every_epochs})")
        rules.append(rule)
    return tuple(rules)


class _EarlyEndFile(TypedDict):
    reason: str


def early_end_of(run: Path) -> str:
    """Why a run ended before its last epoch; empty where it did not, or where that cannot be read."""
    try:
        return read_json(run / EARLY_END_FILE, _EarlyEndFile, "the metrics say it too")["reason"]
    except (OSError, ValueError):
        return ""
