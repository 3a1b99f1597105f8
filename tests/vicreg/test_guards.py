"""Non-finite steps are refused and counted; collapse is told once."""

from __future__ import annotations

import logging

import pytest
import torch

from vicreg.guards import StepGuard, TrainingDiverged

TERMS = {"loss": torch.tensor(float("nan"))}
GOOD, BAD = [torch.ones(3)], [torch.ones(3), torch.tensor([1.0, float("inf")])]


def test_counts_refused_steps_and_forgives_them() -> None:
    guard = StepGuard(max_skipped=3)
    assert [guard.accept(0, grads, TERMS) for grads in (BAD, BAD, GOOD, BAD)] == [False, False, True, False]
    assert guard.skipped == 3
    assert guard.skipped_in_a_row == 1


def test_gives_up_after_too_many_in_a_row() -> None:
    guard = StepGuard(max_skipped=2)
    guard.accept(0, BAD, TERMS)
    with pytest.raises(TrainingDiverged, match=r"2 steps in a row .* lower base_lr"):
        guard.accept(1, BAD, TERMS)


def test_collapse_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    guard = StepGuard(max_skipped=2)
    with caplog.at_level(logging.WARNING):
        guard.watch_collapse(5, 0.5)
        assert not caplog.records
        guard.watch_collapse(6, 0.01)
        guard.watch_collapse(7, 0.01)
    assert [record.getMessage() for record in caplog.records] == [
        "the embeddings have collapsed: mean standard deviation 0.01 at step 6"
    ]
