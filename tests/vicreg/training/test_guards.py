"""Non-finite steps are refused and counted; collapse is told once."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch

from vicreg.methods import simsiam, vicreg
from vicreg.training.guards import StepGuard, TrainingDiverged

TERMS = {"loss": torch.tensor(float("nan"))}
GOOD, BAD = [torch.ones(3)], [torch.ones(3), torch.tensor([1.0, float("inf")])]


CPU = torch.device("cpu")
SAMPLES = torch.tensor([4, 17])
WHY = "a gradient or a statistic of batch norm is not finite, and nothing of it stays"


def test_counts_refused_steps_and_forgives_them() -> None:
    guard = StepGuard(max_skipped=3, device=CPU)
    taken = [bool(guard.accept(gradients, [], SAMPLES)) for gradients in (BAD, BAD, GOOD, BAD)]
    assert taken == [False, False, True, False]
    assert guard.skipped == 3
    guard.check(4, TERMS)


def test_the_norm_is_that_of_all_gradients_together() -> None:
    guard = StepGuard(max_skipped=3, device=CPU)
    gradients = [torch.randn(3, 5), torch.randn(7)]
    guard.accept(gradients, [], SAMPLES)
    expected = np.linalg.norm(np.concatenate([gradient.double().numpy().ravel() for gradient in gradients]))
    assert guard.gradient_norm.item() == pytest.approx(expected, rel=1e-6)


def test_says_what_was_left_out_once(caplog: pytest.LogCaptureFixture) -> None:
    guard = StepGuard(max_skipped=9, device=CPU)
    guard.go_on_from(5, 0)  # of an earlier start
    with caplog.at_level(logging.WARNING):
        for step, gradients in enumerate((BAD, GOOD, BAD, BAD, GOOD)):
            guard.accept(gradients, [], SAMPLES * (10 if step == 3 else 1))
            if step in (0, 4):
                guard.check(step, TERMS)
                guard.check(step, TERMS)
    assert [record.getMessage() for record in caplog.records] == [
        f"step 0 left out: {WHY} (loss nan); no view of this rank tells which sample it is; all of them: 4 17",
        f"2 steps up to 4 left out: {WHY} (loss nan); no view of the last of this rank tells which sample it is; "
        "all of them: 40 170",
    ]
    assert guard.skipped == 8


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1e30])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_names_the_samples_whose_views_tell(
    caplog: pytest.LogCaptureFixture, value: float, layout: torch.memory_format
) -> None:
    guard = StepGuard(max_skipped=9, device=CPU)
    views = [torch.randn(3, 3, 4, 4).contiguous(memory_format=layout) for _ in range(2)]
    views[1][2, 1, 3, 0] = value
    with caplog.at_level(logging.WARNING):
        guard.accept(BAD, [], torch.tensor([4, 17, 23]), views)
        guard.accept(GOOD, [], torch.tensor([1, 2, 3]), views[:1])
        guard.check(1, TERMS)
    [record] = caplog.records
    assert record.getMessage().endswith("of this rank with views that are not finite, or beyond all pixels: 23")


def test_a_row_goes_on_after_a_resume() -> None:
    guard = StepGuard(max_skipped=3, device=CPU)
    guard.go_on_from(8, 2)
    assert (guard.skipped, guard.in_a_row) == (8, 2)
    guard.accept(BAD, [], SAMPLES)
    with pytest.raises(TrainingDiverged, match="3 steps in a row"):
        guard.check(0, TERMS)
    guard.go_on_from(8, 2)
    guard.accept(GOOD, [], SAMPLES)
    assert guard.in_a_row == 0
    guard.check(0, TERMS)


def test_gives_up_after_too_many_in_a_row() -> None:
    guard = StepGuard(max_skipped=2, device=CPU)
    for gradients in (BAD, BAD, GOOD):
        guard.accept(gradients, [], SAMPLES)
    with pytest.raises(TrainingDiverged, match=r"2 steps in a row .* lower base_lr"):
        guard.check(2, TERMS)


def test_a_number_below_0_is_no_collapse_where_there_is_no_limit(caplog: pytest.LogCaptureFixture) -> None:
    StepGuard(5, torch.device("cpu")).watch_collapse(6, {"loss": -0.9}, simsiam.TERMS)
    assert not caplog.text


def test_collapse_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    guard = StepGuard(max_skipped=2, device=CPU)
    with caplog.at_level(logging.WARNING):
        guard.watch_collapse(5, {"embedding_std": 0.5}, vicreg.TERMS)
        assert not caplog.records
        guard.watch_collapse(6, {"embedding_std": 0.01}, vicreg.TERMS)
        guard.watch_collapse(7, {"embedding_std": 0.01}, vicreg.TERMS)
    assert [record.getMessage() for record in caplog.records] == [
        "the embeddings have collapsed: embedding_std 0.01 at step 6"
    ]
