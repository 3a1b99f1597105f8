"""k nearest neighbours against a slow loop, and where the answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.profiler import ProfilerActivity, profile

from tests.vicreg.evals.small_splits import splits_of
from vicreg.evals import knn
from vicreg.evals.knn import Config, evaluate

NUM_CLASSES = 7


def _slow(
    train: NDArray[np.float32], train_labels: list[int], val: NDArray[np.float32], k: int, temperature: float | None
) -> list[int]:
    """Predicted classes, pair by pair, as the definition says."""
    predicted = []
    for query in val.astype(np.float64):
        pairs = []
        for sample, row in enumerate(train.astype(np.float64)):
            cosine = np.float32(query @ row / np.linalg.norm(query) / np.linalg.norm(row))
            pairs.append((-float(cosine), sample))
        votes = [0.0] * NUM_CLASSES
        for negative, sample in sorted(pairs)[:k]:
            votes[train_labels[sample]] += 1.0 if temperature is None else math.exp(-negative / temperature)
        predicted.append(votes.index(max(votes)))
    return predicted


@pytest.fixture(scope="module")
def clouds() -> tuple[NDArray[np.float32], list[int], NDArray[np.float32], list[int]]:
    """Overlapping clouds, with some rows twice, so that similarities are equal."""
    random = np.random.default_rng(1)
    centres = random.standard_normal((NUM_CLASSES, 5))
    labels = [int(label) for label in random.integers(0, NUM_CLASSES, 150)]
    rows = (centres[labels] + random.standard_normal((150, 5))).astype(np.float32)
    rows[100:110] = rows[:10]
    return rows[:110], labels[:110], rows[110:], labels[110:]


def test_equals_the_slow_loop(
    clouds: tuple[NDArray[np.float32], list[int], NDArray[np.float32], list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(knn, "TRAIN_BLOCK", 16)
    monkeypatch.setattr(knn, "QUERY_BLOCK", 7)
    train, train_labels, val, val_labels = clouds
    encoder, splits = splits_of(*clouds)
    config = Config(neighbours=(1, 20, 110), votes=("weighted", "unweighted"), temperature=0.3)
    metrics = evaluate(encoder, splits, config).metrics
    assert len(metrics) == 6
    for k in config.neighbours:
        for temperature, suffix in ((0.3, ""), (None, "_unweighted")):
            predicted = _slow(train, train_labels, val, k, temperature)
            correct = sum(p == truth for p, truth in zip(predicted, val_labels, strict=True))
            assert metrics[f"top1_{k}_neighbours{suffix}"] == 100 * correct / len(val_labels)


def test_blocks_do_not_matter(
    clouds: tuple[NDArray[np.float32], list[int], NDArray[np.float32], list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder, splits = splits_of(*clouds)
    config = Config(neighbours=(20, 50))
    whole = evaluate(encoder, splits, config).metrics
    monkeypatch.setattr(knn, "TRAIN_BLOCK", 13)
    monkeypatch.setattr(knn, "QUERY_BLOCK", 3)
    assert evaluate(encoder, splits, config).metrics == whole


def test_equal_similarities_go_to_the_first_sample_and_equal_votes_to_the_lowest_class() -> None:
    train = np.array([[1, 0], [2, 0], [3, 0], [0, 1]], dtype=np.float32)
    encoder, splits = splits_of(train, [2, 1, 1, 0], np.array([[1, 0]], dtype=np.float32), [2])
    metrics = evaluate(encoder, splits, Config(neighbours=(1, 2, 3), votes=("unweighted",))).metrics
    assert metrics == {
        "top1_1_neighbours_unweighted": 100.0,  # the first of three equals
        "top1_2_neighbours_unweighted": 0.0,  # 2 and 1 have a vote each: 1 wins
        "top1_3_neighbours_unweighted": 0.0,
    }


def test_keys_order_all_floats() -> None:
    values = torch.tensor([-1.0, -0.5, -1e-30, -0.0, 0.0, 1e-30, 0.5, 1.0])
    keys = knn._key(values[None], torch.zeros(len(values), dtype=torch.int64))[0]
    assert keys.tolist() == sorted(keys.tolist())
    assert keys[3] == keys[4]
    similarities, samples = knn._merge(knn._key(values[None], torch.arange(len(values))), len(values))
    assert torch.equal(similarities[0], values.flip(0))
    assert samples[0].tolist() == [7, 6, 5, 3, 4, 2, 1, 0]


def _peak_bytes(num_train: int, num_queries: int, num_features: int, k: int) -> int:
    """Most bytes of tensors that an evaluation allocates at any time, beside the features it is given."""
    random = np.random.default_rng(0)
    rows = random.standard_normal((num_train + num_queries, num_features)).astype(np.float32)
    labels = [number % 4 for number in range(len(rows))]
    encoder, splits = splits_of(rows[:num_train], labels[:num_train], rows[num_train:], labels[num_train:])
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        evaluate(encoder, splits, Config(neighbours=(k,)))
    assert recorded.profiler is not None
    events = [event for event in recorded.profiler.kineto_results.events() if event.name() == "[memory]"]
    changes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    return int(np.cumsum(changes).max())


def _bound_bytes(num_queries: int, num_features: int, k: int) -> int:
    """The memory that the module's docstring promises."""
    queries, keys = 8 * num_queries * num_features, 8 * num_queries * k
    return 2 * queries + 4 * keys + 8 * knn.TRAIN_BLOCK * (3 * num_features + 10 * knn.QUERY_BLOCK)


def test_memory_is_bounded_whatever_the_number_of_training_images(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _bound_bytes(50_000, 2048, 200) < 4e9  # ImageNet and a ResNet-50
    monkeypatch.setattr(knn, "TRAIN_BLOCK", 256)
    monkeypatch.setattr(knn, "QUERY_BLOCK", 64)
    few, many = (_peak_bytes(num_train, 500, 64, 20) for num_train in (1024, 8192))
    assert 8 * 500 * 64 < many <= few < _bound_bytes(500, 64, 20)  # more than the queries: something was recorded


def test_random_labels_are_at_chance() -> None:
    random = np.random.default_rng(2)
    rows = random.standard_normal((3000, 16)).astype(np.float32)
    labels = [int(label) for label in random.integers(0, 4, 3000)]
    encoder, splits = splits_of(rows[:1000], labels[:1000], rows[1000:], labels[1000:])
    for percent in evaluate(encoder, splits, Config()).metrics.values():
        assert abs(percent - 25) < 100 * 3.3 * math.sqrt(0.25 * 0.75 / 2000)  # 99.9 %


def test_separated_clouds_reach_100_percent() -> None:
    labels = [number % 5 for number in range(300)]
    rows = np.eye(5, dtype=np.float32)[labels] + 0.05 * np.random.default_rng(3).standard_normal((300, 5))
    encoder, splits = splits_of(rows[:200], labels[:200], rows[200:], labels[200:])
    metrics = evaluate(encoder, splits, Config(neighbours=(20,), votes=("weighted", "unweighted"))).metrics
    assert set(metrics.values()) == {100.0}


def test_more_neighbours_than_training_images_are_refused() -> None:
    encoder, splits = splits_of(np.eye(3, dtype=np.float32), [0, 1, 2], np.eye(3, dtype=np.float32), [0, 1, 2])
    with pytest.raises(ValueError, match="neighbours is 200, allowed: up to the 3 training images"):
        evaluate(encoder, splits, Config())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"neighbours": ()}, "neighbours is \\(\\), allowed: at least one"),
        ({"neighbours": (0,)}, "neighbours is \\(0,\\), allowed: 1 or more"),
        ({"votes": ("loud",)}, "votes is \\('loud',\\), allowed: weighted, unweighted"),
        ({"temperature": 0.0}, "temperature is 0.0, allowed: above 0"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Config(**settings)
