"""Few labels against scikit-learn used by hand, and which images are chosen."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from tests.vicreg.evals.small_splits import splits_of
from vicreg.evals.few_labels import Config, choose_labelled, evaluate


@pytest.fixture(scope="module")
def clouds() -> tuple[NDArray[np.float32], list[int], NDArray[np.float32], list[int]]:
    """Overlapping clouds of four classes in 40 dimensions, one of which never changes."""
    random = np.random.default_rng(0)
    labels = [int(label) for label in random.integers(0, 4, 400)]
    spread = random.standard_normal((4, 40))[labels] + 2.5 * random.standard_normal((400, 40))
    rows = (spread * random.uniform(0.1, 10, 40) + 3).astype(np.float32)
    rows[:, 7] = 1.25
    return rows[:150], labels[:150], rows[150:], labels[150:]


def test_equals_scikit_learn_by_hand(
    clouds: tuple[NDArray[np.float32], list[int], NDArray[np.float32], list[int]],
) -> None:
    train, train_labels, val, val_labels = clouds
    encoder, splits = splits_of(*clouds)
    metrics = evaluate(encoder, splits, Config(label_counts=(12, 100, 150), draws=3)).metrics
    scaler = StandardScaler().fit(train.astype(np.float64))
    for count, draws in ((12, 3), (100, 3), (150, 1)):
        percent = []
        for draw in range(draws):
            chosen = choose_labelled(np.array(train_labels), count, 0, draw)
            model = LogisticRegression(C=0.1, tol=1e-8, max_iter=10_000)
            model.fit(scaler.transform(train[chosen]), np.array(train_labels)[chosen])
            percent.append(100 * model.score(scaler.transform(val), val_labels))
        assert metrics[f"top1_{count}_labels"] == pytest.approx(np.mean(percent), abs=1e-9)
        if draws > 1:
            assert metrics[f"top1_{count}_labels_std"] == pytest.approx(np.std(percent, ddof=1), abs=1e-9)
    assert "top1_150_labels_std" not in metrics


def test_choices_are_even_over_classes_and_nested() -> None:
    labels = np.repeat([0, 1, 2, 3], [30, 20, 10, 2])[np.random.default_rng(0).permutation(62)]
    for draw in range(5):
        previous: set[int] = set()
        for count, expected in ((4, [1, 1, 1, 1]), (8, [2, 2, 2, 2]), (20, [6, 6, 6, 2]), (62, [30, 20, 10, 2])):
            chosen = choose_labelled(labels, count, seed=0, draw=draw)
            assert np.bincount(labels[chosen], minlength=4).tolist() == expected
            assert list(chosen) == sorted(set(chosen))
            assert previous <= set(chosen.tolist())
            previous = set(chosen.tolist())


def test_what_is_left_over_goes_to_random_classes() -> None:
    labels = np.repeat(np.arange(10), 50)
    counts = sum(
        np.bincount(labels[choose_labelled(labels, 3, seed=0, draw=draw)], minlength=10) for draw in range(1000)
    )
    assert np.abs(counts - 300).max() < 3.3 * math.sqrt(1000 * 0.3 * 0.7)


def test_every_image_of_a_class_is_chosen_equally_often() -> None:
    labels = np.repeat([0, 1], 20)
    counts = np.zeros(40)
    for draw in range(1000):
        counts[choose_labelled(labels, 10, seed=3, draw=draw)] += 1
    assert np.abs(counts - 250).max() < 4 * math.sqrt(1000 * 0.25 * 0.75)


def test_separable_features_reach_100_percent_and_random_labels_chance() -> None:
    random = np.random.default_rng(4)
    labels = [number % 5 for number in range(1500)]
    noise = random.standard_normal((1500, 20)).astype(np.float32)
    rows = 20 * np.eye(5, 20, dtype=np.float32)[labels] + noise
    encoder, splits = splits_of(rows[:500], labels[:500], rows[500:], labels[500:])
    assert evaluate(encoder, splits, Config(label_counts=(50,), draws=2)).metrics["top1_50_labels"] == 100.0
    encoder, splits = splits_of(noise[:500], labels[:500], noise[500:], labels[500:])
    percent = evaluate(encoder, splits, Config(label_counts=(500,))).metrics["top1_500_labels"]
    assert abs(percent - 20) < 100 * 3.3 * math.sqrt(0.2 * 0.8 / 1000)  # 99.9 %


def test_the_seed_decides(clouds: tuple[NDArray[np.float32], list[int], NDArray[np.float32], list[int]]) -> None:
    encoder, splits = splits_of(*clouds)
    first, again, other = (
        evaluate(encoder, splits, Config(label_counts=(20,), draws=4, seed=seed)) for seed in (1, 1, 2)
    )
    assert first == again != other


def test_more_labels_than_images_are_refused() -> None:
    encoder, splits = splits_of(np.eye(3, dtype=np.float32), [0, 1, 2], np.eye(3, dtype=np.float32), [0, 1, 2])
    with pytest.raises(ValueError, match="label_counts is 1437, allowed: up to the 3 training images"):
        evaluate(encoder, splits, Config(label_counts=(1437,)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"label_counts": (1,)}, "label_counts is \\(1,\\), allowed: 2 or more"),
        ({"draws": 0}, "draws is 0, allowed: 1 or more"),
        ({"inverse_regularisation": 0.0}, "inverse_regularisation is 0.0, allowed: above 0"),
        ({"max_iterations": 0}, "max_iterations is 0, allowed: 1 or more"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Config(**settings)
