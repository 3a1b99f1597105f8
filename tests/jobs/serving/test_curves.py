"""Points of a long file: few, spread evenly, with all that is measured seldom and the last, whatever comes later."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

from jobs.serving.curves import POINTS, CurveFile


def _line(step: int) -> str:
    online = {"online_top1": 50.0} if step % 1000 == 999 else {}
    return (
        json.dumps({"step": step, "epoch": step // 1000, "loss": 1.0 * step, **online, "elapsed_s": 36.0 * step}) + "\n"
    )


def test_a_long_file_has_few_points_and_the_last(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(map(_line, range(30_000))))
    curves = CurveFile(tmp_path)
    for end in (30_000, 60_001):
        with path.open("a") as file:
            file.writelines(map(_line, range(30_000, end)))
        assert curves.read_on()
        loss = curves.curve("loss")
        assert POINTS // 2 <= len(loss) <= 3 * POINTS
        steps = [step for step, _, _ in loss]
        assert steps == sorted(set(steps))
        assert steps[-1] == end
        assert max(after - before for before, after in itertools.pairwise(steps)) <= end / POINTS * 2 + 1
        assert all((hours, value) == (36.0 * (step - 1) / 3600, step - 1) for step, hours, value in loss)
        assert [step for step, _, _ in curves.curve("online_top1")] == list(range(1000, end + 1, 1000))
    assert curves.fields() == ["loss", "online_top1"]
