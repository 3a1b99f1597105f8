"""Linear accuracy with few labels: logistic regression on frozen features of a handful of labelled training images.

It answers at small scale what semi-supervised fine-tuning answers on ImageNet: how much of a representation can be used
with a few labels. Every draw of labels is measured on the whole validation split. The ranks share the draws among them.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Collection
from dataclasses import asdict, replace

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from vicreg.evals.features import Features, Splits
from vicreg.evals.kept_parts import KeptRows
from vicreg.evals.results import CannotMeasure, Measured
from vicreg.evals.settings.few_labels import Config as Config
from vicreg.ranks import distributed
from vicreg.views.keyed_random import bits

log = logging.getLogger(__name__)

PER_CLASS = (1, 5, 10)
MAX_ALL = 5000
"""Labels that a regression is still fitted to where nobody says how many: some minutes on one core."""
TOLERANCE = 1e-6  # on the largest component of the gradient
RANK_TOLERANCE = 1e-10
_WITHIN_CLASS, _AMONG_CLASSES = 0, 1  # numbers of the two random keys of a draw


def fitted(config: Config, splits: Splits, given: Collection[str]) -> tuple[Config, list[str]]:
    """Settings that the data allow, but for those `given`, and what was changed."""
    num = len(splits.labels("train"))
    if not config.label_counts:
        few = {count * splits.num_classes for count in PER_CLASS}
        counts = sorted({count for count in few if 2 <= count < num} | ({num} if num <= MAX_ALL else set()))
        return replace(config, label_counts=tuple(counts)), []
    fits = tuple(dict.fromkeys(min(count, num) for count in config.label_counts))
    if "label_counts" in given or fits == config.label_counts:
        return config, []
    said = f"{', '.join(map(str, fits))} labels instead of {', '.join(map(str, config.label_counts))}"
    return replace(config, label_counts=fits), [f"{said}, for {num} training images"]


def evaluate(encoder: nn.Module, splits: Splits, config: Config) -> Measured:
    """Mean top-1 accuracy in percent for every number of labels, and its standard deviation over the draws.

    Raises CannotMeasure when more labels are asked for than there are training images.
    """
    splits.require_multi_label(False, "few_labels")
    val = splits.features(encoder, "val")
    train = splits.features(encoder, "train")
    num_train, num_val = len(train.labels), len(val.labels)
    if not config.label_counts:
        config, _ = fitted(config, splits, given=())
    largest = max(config.label_counts)
    if largest > num_train:
        raise CannotMeasure(f"label_counts is {largest}, allowed: up to the {num_train} training images")

    mean, std = _statistics(train, splits.device)
    queries = _standardise(val.all_rows(splits.device), mean, std)
    jobs = [(count, draw) for count in config.label_counts for draw in range(_num_draws(count, num_train, config))]
    rank, world_size = distributed.rank(), distributed.world_size()
    correct = torch.zeros(len(jobs), dtype=torch.int64)
    own = correct[rank::world_size]
    belongs_to: dict[str, object] = {"few_labels": asdict(config), "features": [train.belongs_to, val.belongs_to]}
    parts = KeptRows(splits.parts, belongs_to, "fits, whose results are there")
    done = parts.load(own)
    for number, (count, draw) in enumerate(jobs):
        chosen = choose_labelled(train.labels.numpy(), count, config.seed, draw)
        labelled = _standardise(train.rows(chosen, splits.device), mean, std)
        if number % world_size == rank and number // world_size >= done:
            predicted = fit_and_predict(
                labelled,
                train.labels.numpy()[chosen],
                queries,
                config.inverse_regularisation,
                config.max_iterations,
            )
            own[number // world_size] = int((predicted == val.labels.numpy()).sum())
            parts.keep_if_due(own, number // world_size + 1)
        splits.heard()
    correct = distributed.sum_over_ranks(correct.to(splits.device))

    metrics: dict[str, float] = {}
    for count in config.label_counts:
        percent = [100 * int(correct[number]) / num_val for number, job in enumerate(jobs) if job[0] == count]
        metrics[f"top1_{count}_labels"] = float(np.mean(percent))
        if len(percent) > 1:
            metrics[f"top1_{count}_labels_std"] = float(np.std(percent, ddof=1))
    return Measured(metrics)


def choose_labelled(labels: NDArray[np.int64], count: int, seed: int, draw: int) -> NDArray[np.int64]:
    """`count` samples as evenly over the classes as possible, ascending; a function of its arguments.

    Round after round takes one random image of every class that has any left, the last, partial round those of random
    classes. So a draw's larger choice contains its smaller ones.
    """
    samples = np.arange(len(labels), dtype=np.int64)
    by_class = np.lexsort((bits(seed, draw, samples, 0, _WITHIN_CLASS), labels))
    sizes = np.bincount(labels)
    first_of_class = np.repeat(np.cumsum(sizes) - sizes, sizes)
    rounds = np.empty(len(labels), dtype=np.int64)
    rounds[by_class] = np.arange(len(labels)) - first_of_class
    chosen: NDArray[np.int64] = np.lexsort((bits(seed, draw, samples, 0, _AMONG_CLASSES), rounds))[:count]
    return np.sort(chosen)


def _num_draws(count: int, num_train: int, config: Config) -> int:
    return 1 if count == num_train else config.draws


def _statistics(train: Features, device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each feature over all training images: no label is needed for them.

    A feature that never changes gets the deviation 1.
    """
    num = len(train.labels)
    own = train.values.double()
    mean = distributed.sum_over_ranks(own.sum(0).to(device)) / num
    variance = distributed.sum_over_ranks((own - mean.cpu()).square().sum(0).to(device)) / num
    constant = variance <= (1e-6 * mean.abs()).square()
    return mean, torch.where(constant, torch.ones_like(variance), variance.sqrt())


def _standardise(rows: Tensor, mean: Tensor, std: Tensor) -> NDArray[np.float64]:
    standardised: NDArray[np.float64] = ((rows.double() - mean) / std).cpu().numpy()
    return standardised


def fit_and_predict(
    rows: NDArray[np.float64],
    labels: NDArray[np.int64],
    queries: NDArray[np.float64],
    inverse_regularisation: float,
    max_iterations: int,
) -> NDArray[np.int64]:
    """Predicted labels of the queries.

    With fewer rows than features the weights lie in the span of the rows, because only their norm is penalised: an
    orthonormal basis of it gives the same regression with fewer features. One thread is enough for such small
    problems; more only wait for each other.
    """
    model = LogisticRegression(C=inverse_regularisation, solver="newton-cg", tol=TOLERANCE, max_iter=max_iterations)
    with threadpool_limits(1), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        if len(rows) < rows.shape[1]:
            left, scale, basis = np.linalg.svd(rows, full_matrices=False)
            kept = scale > RANK_TOLERANCE * scale[0]
            rows, queries = left[:, kept] * scale[kept], queries @ basis[kept].T
        model.fit(rows, labels)
    if any(issubclass(warning.category, ConvergenceWarning) for warning in caught):
        log.warning("the regression on %d labels did not converge in %d iterations", len(labels), max_iterations)
    predicted: NDArray[np.int64] = model.predict(queries)
    return predicted
