"""The learning rate against the official program's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from vicreg.optim.schedule import learning_rate, peak_lr

GOLDEN = np.load(Path(__file__).parents[2] / "golden" / "schedule.npz")


@pytest.mark.parametrize("row", GOLDEN["rows"].tolist())
def test_equals_the_official_program(row: list[float]) -> None:
    epochs, batch, base_lr, steps_per_epoch, step, expected = row
    peak = peak_lr(base_lr, int(batch))
    ours = learning_rate(int(step), int(epochs * steps_per_epoch), int(10 * steps_per_epoch), peak, 0.001)
    assert ours == pytest.approx(expected, rel=1e-9)


def test_a_run_without_warmup_begins_at_the_peak_and_one_of_warmup_alone_ends_below_it() -> None:
    assert learning_rate(0, 10, 0, 2.0, 0.1) == 2.0
    assert learning_rate(9, 10, 10, 2.0, 0.1) == pytest.approx(1.8)
