"""Average precision against loops over all thresholds, and one class's fits against scikit-learn used by hand."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.model_selection import cross_val_score
from sklearn.svm import LinearSVC

from tests.vicreg.evals.small_splits import ROOT
from vicreg.evals.one_vs_rest import average_precision, average_precision_11_point, cross_validate, fit_and_test

RANKINGS = st.lists(st.tuples(st.booleans(), st.integers(-3, 3)), min_size=1, max_size=30).filter(
    lambda pairs: any(present for present, _ in pairs)
)


def _curve(pairs: list[tuple[bool, int]]) -> list[tuple[float, float]]:
    """Recall and precision at every threshold, from the definition."""
    num_present = sum(present for present, _ in pairs)
    points = []
    for threshold in sorted({score for _, score in pairs}, reverse=True):
        accepted = [present for present, score in pairs if score >= threshold]
        points.append((sum(accepted) / num_present, sum(accepted) / len(accepted)))
    return points


def _arrays(pairs: list[tuple[bool, int]]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([present for present, _ in pairs]), np.array([score for _, score in pairs], dtype=np.float64)


@given(RANKINGS)
def test_area_equals_the_slow_loop(pairs: list[tuple[bool, int]]) -> None:
    points = _curve(pairs)
    area, before = 0.0, 0.0
    for recall, _ in points:
        best = max(precision for other, precision in points if other >= recall)
        area += (recall - before) * best
        before = recall
    assert average_precision(*_arrays(pairs)) == pytest.approx(area, abs=1e-12)


@given(RANKINGS)
def test_11_points_equal_the_slow_loop(pairs: list[tuple[bool, int]]) -> None:
    points = _curve(pairs)
    best = [max(precision for recall, precision in points if recall >= tenth / 10 - 1e-9) for tenth in range(11)]
    assert average_precision_11_point(*_arrays(pairs)) == pytest.approx(sum(best) / 11, abs=1e-12)


def test_a_ranking_worked_out_by_hand() -> None:
    """Found at ranks 1, 4, 5: precision 1, 2/4, 3/5, made monotone 1, 3/5, 3/5; recall 1/3 is enough for 0 to 0.3."""
    present, scores = np.array([True, False, False, True, True, False]), np.array([9.0, 8, 7, 6, 5, 4])
    assert average_precision(present, scores) == pytest.approx((1 + 0.6 + 0.6) / 3, abs=1e-15)
    assert average_precision_11_point(present, scores) == pytest.approx((4 * 1 + 7 * 0.6) / 11, abs=1e-15)


def _overlapping() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    labels = random.choice(np.array([-1, 0, 1], dtype=np.int8), 120, p=[0.6, 0.1, 0.3])
    return random.standard_normal((120, 6)) + (labels == 1)[:, None], labels


def _model(max_iterations: int = 2000) -> LinearSVC:
    return LinearSVC(C=0.5, class_weight={True: 2, False: 1}, max_iter=max_iterations, random_state=0)


def test_folds_are_those_of_cross_val_score() -> None:
    rows, labels = _overlapping()
    expected = cross_val_score(_model(), rows, labels == 1, cv=3, scoring="average_precision")
    assert [cross_validate(_model(), rows, labels, 3, fold) for fold in range(3)] == [(ap, True) for ap in expected]


def test_difficult_images_train_as_negatives_and_are_not_counted() -> None:
    rows, labels = _overlapping()
    queries, truth = _overlapping()[0][::-1] + 0.3, labels[::-1]
    scores = _model().fit(rows, labels == 1).decision_function(queries)
    expected = average_precision(truth[truth != 0] == 1, scores[truth != 0])
    ap, ap_11_point, converged = fit_and_test(_model(), rows, labels, queries, truth)
    assert (ap, converged) == (expected, True)
    assert ap_11_point == average_precision_11_point(truth[truth != 0] == 1, scores[truth != 0])
    assert ap != average_precision(truth == 1, scores)


def test_a_fit_that_gives_up_is_told_and_does_not_warn(recwarn: pytest.WarningsRecorder) -> None:
    rows, labels = _overlapping()
    assert cross_validate(_model(2), rows, labels, 3, 0)[1] is False
    assert not recwarn.list


def test_processes_that_fit_need_no_torch() -> None:
    code = "import sys, vicreg.evals.one_vs_rest; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
