"""Linear SVMs on frozen features, one class against the rest, for images that show several classes: VOC2007's protocol.

As in VISSL (`vissl/utils/svm_utils`): for every class the cost with the best cross-validated average precision on the
training images (trainval), then one fit on all of them, measured on the other split (test). The ranks share the fits
among them, and a rank's processes its own (`one_vs_rest.py`); every fit is a function of its inputs, so the numbers are
the same on any number of ranks and processes.

What is not published, and what is done here: the layer behind the paper's number (VISSL has res5 pooled to 8192
features and res5avg; here the encoder's own features, a ResNet-50's 2048 after average pooling); seeds (VISSL sets none
for liblinear; its folds are not shuffled, so they depend on the order of the images, here that of the beton).

At VOC2007's size (5,011 x 2048, 20 classes, 680 fits) made-up features with a mean average precision of 78 take 6 to 12
minutes on two busy CPU cores and 0.5 GB of memory for each process. Where a class is not separable, a fit with a high
cost takes all of its iterations, about ten times as long; such a fit also turns differences in the last bit of the
features, as between two kinds of GPU, into visible ones.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from joblib import Parallel, delayed
from numpy.typing import NDArray
from sklearn.svm import LinearSVC
from torch import Tensor, nn

from dataprep.beton.contract import BetonError, read_manifest
from vicreg.data.loaders import default_workers
from vicreg.evals.features import Splits
from vicreg.evals.kept_parts import KeptRows
from vicreg.evals.one_vs_rest import DIFFICULT, PRESENT, cross_validate, fit_and_test
from vicreg.evals.results import CannotMeasure, Measured
from vicreg.evals.settings.svm import Config as Config
from vicreg.ranks import distributed

log = logging.getLogger(__name__)

SAY_EVERY_S = 30.0
MIN_FOLDS = 2


def fitted(config: Config, splits: Splits, given: Collection[str]) -> tuple[Config, list[str]]:
    """Settings that the data allow, but for those `given`, and what was changed."""
    labels = splits.labels("train")
    if "folds" in given or config.folds == MIN_FOLDS or labels.ndim != 2:
        return config, []
    present = (labels == PRESENT).sum(axis=0)
    rarer = np.minimum(present, len(labels) - present)
    if not len(rarer) or rarer.max() >= config.folds:
        return config, []
    said = f"{MIN_FOLDS} folds instead of {config.folds}, for classes of at most {rarer.max()} images"
    return replace(config, folds=MIN_FOLDS), [said]


def evaluate(encoder: nn.Module, splits: Splits, config: Config) -> Measured:
    """Mean over the classes of the average precision in percent: area under the monotone curve, and at 11 points.

    Classes that cannot be measured (too few images for the folds, none to find) are left out of the mean and named.
    Raises ValueError when that leaves none, or when the labels are one class per image.
    """
    splits.require_multi_label(True, "svm")
    if splits.framing != config.framing:
        splits = replace(splits, framing=config.framing)
    train, val = splits.features(encoder, "train"), splits.features(encoder, "val")
    rows, queries = (_unit_norm(part.all_rows(splits.device), config.norm_offset) for part in (train, val))
    labels, truth = train.labels.numpy(), val.labels.numpy()
    names = _class_names(splits)
    left_out = _unmeasurable(labels, truth, config.folds)
    said = "; ".join(f"{names[number]}: {reason}" for number, reason in left_out.items())
    classes = [number for number in range(splits.num_classes) if number not in left_out]
    if not classes:
        raise CannotMeasure(f"{splits.data.train} and {splits.data.val} have no class that svm can measure ({said})")
    if left_out:
        log.warning("%d of %d classes are left out of the mean: %s", len(left_out), splits.num_classes, said)

    belongs_to: dict[str, object] = {"svm": asdict(config), "features": [train.belongs_to, val.belongs_to]}
    cv_ap, unconverged = _search(rows, labels, classes, config, splits, belongs_to)
    places = cv_ap.argmax(axis=1)
    final = [
        delayed(fit_and_test)(_model(config, config.costs[place]), rows, labels[:, number], queries, truth[:, number])
        for number, place in zip(classes, places, strict=True)
    ]
    tested = _shared(final, 3, "final fits", splits, belongs_to)
    np.add.at(unconverged, places, tested[:, 2] == 0)
    _say_unconverged(unconverged, len(classes) * (len(config.costs) * config.folds + 1), config)

    percent = 100 * tested[:, :2]
    per_class = {
        names[number]: {
            "ap": float(percent[row, 0]),
            "ap_11_point": float(percent[row, 1]),
            "cost": config.costs[places[row]],
            "cv_mean_ap": dict(zip(map(str, config.costs), (100 * cv_ap[row]).tolist(), strict=True)),
            "train_images": _counts(labels[:, number]),
            "test_images": _counts(truth[:, number]),
        }
        for row, number in enumerate(classes)
    }
    return Measured(
        {"map": float(percent[:, 0].mean()), "map_11_point": float(percent[:, 1].mean())},
        {
            "classes": per_class,
            "left_out": {names[number]: reason for number, reason in left_out.items()},
            "unconverged_fits": dict(zip(map(str, config.costs), unconverged.tolist(), strict=True)),
        },
    )


def _unit_norm(rows: Tensor, offset: float) -> NDArray[np.float64]:
    values = rows.cpu().double().numpy()
    normed: NDArray[np.float64] = values / (np.linalg.norm(values, axis=1, keepdims=True) + offset)
    return normed


def _class_names(splits: Splits) -> list[str]:
    """As the training beton's manifest has them; numbers where it has none."""
    try:
        names = [str(name) for name in read_manifest(splits.beton("train"))["classes"]]
    except (BetonError, KeyError):
        names = []
    return names if len(set(names)) == splits.num_classes else [str(number) for number in range(splits.num_classes)]


def _unmeasurable(labels: NDArray[np.int8], truth: NDArray[np.int8], num_folds: int) -> dict[int, str]:
    """Classes for which the protocol is not defined, with the reason."""
    reasons: dict[int, str] = {}
    for number in range(labels.shape[1]):
        present = int((labels[:, number] == PRESENT).sum())
        if min(present, len(labels) - present) < num_folds:
            reasons[number] = (
                f"{present} of {len(labels)} training images show it; {num_folds} folds need {num_folds} that do "
                f"and {num_folds} that do not"
            )
        elif not (truth[:, number] == PRESENT).any():
            reasons[number] = "no test image shows it"
    return reasons


def _counts(labels: NDArray[np.int8]) -> dict[str, int]:
    """Images that show a class, that do not, and that show it as difficult only."""
    present, difficult = int((labels == PRESENT).sum()), int((labels == DIFFICULT).sum())
    return {"positive": present, "negative": len(labels) - present - difficult, "difficult": difficult}


def _model(config: Config, cost: float) -> LinearSVC:
    return LinearSVC(
        C=cost,
        class_weight={True: config.positive_weight, False: 1.0},
        penalty="l2",
        loss="squared_hinge",
        dual=config.dual,
        max_iter=config.max_iterations,
        tol=config.tolerance,
        intercept_scaling=config.intercept_scaling,
        random_state=config.seed,
    )


def _search(
    rows: NDArray[np.float64],
    labels: NDArray[np.int8],
    classes: list[int],
    config: Config,
    splits: Splits,
    belongs_to: dict[str, object],
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Mean average precision over the folds (classes, costs), 0 to 1, and fits of each cost that did not converge."""
    # The dearest, which take longest, first: then ranks and processes end at about the same time.
    by_cost = sorted(range(len(config.costs)), key=lambda place: -config.costs[place])
    fits = [(place, row, fold) for place in by_cost for fold in range(config.folds) for row in range(len(classes))]
    jobs = [
        delayed(cross_validate)(_model(config, config.costs[place]), rows, labels[:, classes[row]], config.folds, fold)
        for place, row, fold in fits
    ]
    folds_ap = np.zeros((len(classes), len(config.costs), config.folds))
    unconverged = np.zeros(len(config.costs), dtype=np.int64)
    found = _shared(jobs, 2, "fits for the costs", splits, belongs_to)
    for (place, row, fold), (ap, converged) in zip(fits, found, strict=True):
        folds_ap[row, place, fold] = ap
        unconverged[place] += converged == 0
    return folds_ap.mean(axis=2), unconverged


def _shared(
    jobs: list[Any], num_results: int, what: str, splits: Splits, belongs_to: dict[str, object]
) -> NDArray[np.float64]:
    """The results (jobs, num_results) of all jobs on every rank: ranks share them, a rank's processes its own."""
    rank, world_size = distributed.rank(), distributed.world_size()
    found = torch.zeros((len(jobs), num_results), dtype=torch.float64)
    own, own_jobs = found[rank::world_size], jobs[rank::world_size]
    parts = KeptRows(splits.parts, {**belongs_to, "fits": what}, f"{what}, whose results are there")
    first, said = parts.load(own), time.monotonic()
    fitted = Parallel(n_jobs=splits.workers or default_workers(), return_as="generator")(own_jobs[first:])
    for number, results in enumerate(fitted, first):
        own[number] = torch.tensor(results, dtype=torch.float64)
        parts.keep_if_due(own, number + 1)
        splits.heard()
        if time.monotonic() - said > SAY_EVERY_S:
            said = time.monotonic()
            log.info("%s: %d of this rank's %d", what, number + 1, len(own))
    summed: NDArray[np.float64] = distributed.sum_over_ranks(found.to(splits.device)).cpu().numpy()
    return summed


def _say_unconverged(unconverged: NDArray[np.int64], num_fits: int, config: Config) -> None:
    if unconverged.any():
        per_cost = zip(config.costs, unconverged, strict=True)
        counts = ", ".join(f"{number} with cost {cost:g}" for cost, number in per_cost if number)
        log.warning(
            "%d of %d fits did not converge in %d iterations: %s",
            unconverged.sum(),
            num_fits,
            config.max_iterations,
            counts,
        )
