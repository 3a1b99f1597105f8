"""One class against the rest: fit a linear SVM, and say how well its scores rank images (average precision).

It stands apart from `svm.py` so that the processes that fit need neither torch nor the rest of the suite. They are
processes and not threads because liblinear, though it releases the interpreter lock, draws its random numbers from one
generator per process: fits that run at the same time in threads differ from one time to the next.
"""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import average_precision_score
from sklearn.model_selection import StratifiedKFold
from sklearn.svm import LinearSVC
from threadpoolctl import threadpool_limits

PRESENT, DIFFICULT = 1, 0  # as in VOC's lists of images; -1 is absent


def average_precision(present: NDArray[np.bool_], scores: NDArray[np.float64]) -> float:
    """Area under the precision-recall curve made monotone, from 0 to 1: VISSL's, and VOC's from 2010 on.

    Precision at a recall is the largest at this or any larger one. Images with equal scores count as found at once
    (VISSL: in no defined order). At least one image must be present.
    """
    found, precision = _monotone_curve(present, scores)
    return float(np.sum(np.diff(found, prepend=0) * precision) / found[-1])


def average_precision_11_point(present: NDArray[np.bool_], scores: NDArray[np.float64]) -> float:
    """Mean precision at a recall of at least 0, 0.1, ..., 1, from 0 to 1: VOC's up to 2009."""
    found, precision = _monotone_curve(present, scores)
    first = np.searchsorted(10 * found, np.arange(11) * found[-1])
    return float(precision[first].mean())


def _monotone_curve(
    present: NDArray[np.bool_], scores: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """For every score as a threshold, from the highest: present images found, and the best precision from there on."""
    order = np.argsort(-scores, kind="stable")
    last_of_equals = np.flatnonzero(np.diff(scores[order], append=-np.inf))
    found = np.cumsum(present[order], dtype=np.int64)[last_of_equals]
    precision = found / (last_of_equals + 1)
    return found, np.maximum.accumulate(precision[::-1])[::-1]


def cross_validate(
    model: LinearSVC, rows: NDArray[np.float64], labels: NDArray[np.int8], num_folds: int, fold: int
) -> tuple[float, bool]:
    """scikit-learn's average precision (0 to 1) on one fold after fitting the others; whether the fit converged.

    Folds are as cross_val_score makes them: stratified, in the order of the rows, not shuffled. Difficult images are
    negatives in training and here, as in VISSL.
    """
    present = labels == PRESENT
    train, held_out = list(StratifiedKFold(num_folds).split(rows, present))[fold]
    with threadpool_limits(1):
        converged = _fit(model, rows[train], present[train])
        scores = model.decision_function(rows[held_out])
    return float(average_precision_score(present[held_out], scores)), converged


def fit_and_test(
    model: LinearSVC,
    rows: NDArray[np.float64],
    labels: NDArray[np.int8],
    queries: NDArray[np.float64],
    truth: NDArray[np.int8],
) -> tuple[float, float, bool]:
    """Average precision and that at 11 points (0 to 1) of the queries after fitting all rows; whether it converged.

    Difficult images are negatives in training and left out of the test, as in VISSL.
    """
    counted = truth != DIFFICULT
    with threadpool_limits(1):
        converged = _fit(model, rows, labels == PRESENT)
        scores = model.decision_function(queries)[counted]
    present = truth[counted] == PRESENT
    return average_precision(present, scores), average_precision_11_point(present, scores), converged


def _fit(model: LinearSVC, rows: NDArray[np.float64], present: NDArray[np.bool_]) -> bool:
    """Whether the solver reached its tolerance; whoever asked for many fits says so once."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(rows, present)
    return bool(model.n_iter_ < model.max_iter)
