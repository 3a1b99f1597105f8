"""Non-finite steps are refused and counted; collapse is told once."""

from __future__ import annotations

import logging

import pytest
import torch

from vicreg.training.guards import StepGuard, TrainingDiverged

TERMS = {"loss": torch.tensor(float("nan"))}
GOOD, BAD = [torch.ones(3)], [torch.ones(3), torch.tensor([1.0, float("inf")])]


CPU = torch.device("cpu")


def test_counts_refused_steps_and_forgives_them() -> None:
    guard = StepGuard(max_skipped=3, device=CPU)
    assert [bool(guard.accept(gradients)) for gradients in (BAD, BAD, GOOD, BAD)] == [False, False, True, False]
    assert guard.skipped == 3
    guard.check(4, TERMS)


def test_says_what_was_left_out_once(caplog: pytest.LogCaptureFixture) -> None:
    guard = StepGuard(max_skipped=9, device=CPU)
    guard.skipped = 5  # of an earlier start
    with caplog.at_level(logging.WARNING):
        for step, gradients in enumerate((BAD, GOOD, BAD, BAD, GOOD)):
            guard.accept(gradients)
            if step in (0, 4):
                guard.check(step, TERMS)
                guard.check(step, TERMS)
    assert [record.getMessage() for record in caplog.records] == [
        "step 0 left out for a non-finite gradient (loss nan)",
        "2 steps up to 4 left out for a non-finite gradient (loss nan)",
    ]
    assert guard.skipped == 8


def test_gives_up_after_too_many_in_a_row() -> None:
    guard = StepGuard(max_skipped=2, device=CPU)
    for gradients in (BAD, BAD, GOOD):
        guard.accept(gradients)
    with pytest.raises(TrainingDiverged, match=r"2 steps in a row .* lower base_lr"):
        guard.check(2, TERMS)


def test_collapse_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    guard = StepGuard(max_skipped=2, device=CPU)
    with caplog.at_level(logging.WARNING):
        guard.watch_collapse(5, 0.5)
        assert not caplog.records
        guard.watch_collapse(6, 0.01)
        guard.watch_collapse(7, 0.01)
    assert [record.getMessage() for record in caplog.records] == [
        "the embeddings have collapsed: mean standard deviation 0.01 at step 6"
    ]
