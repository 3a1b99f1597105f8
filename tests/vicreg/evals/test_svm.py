"""SVMs for several classes per image against scikit-learn in plain loops, and where the answer is known."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score
from sklearn.model_selection import StratifiedKFold
from sklearn.svm import LinearSVC

from tests.ranks import run_ranks
from tests.vicreg.evals.small_splits import multi_label_splits, splits_of
from vicreg.evals import few_labels, knn
from vicreg.evals.features import Features
from vicreg.evals.results import Measured
from vicreg.evals.svm import Config, evaluate
from vicreg.ranks import distributed

COSTS = (0.01, 0.3, 5.0)
Rows = NDArray[np.float32]
Labels = NDArray[np.int8]


def _images(num: int, seed: int, noise: float) -> tuple[Rows, Labels]:
    """Features in which 4 classes are hidden in noise, positive as after a ReLU; some classes are difficult only."""
    random = np.random.default_rng(seed)
    labels = random.choice(np.array([-1, 0, 1], dtype=np.int8), (num, 4), p=[0.65, 0.05, 0.3])
    directions = np.random.default_rng(0).standard_normal((4, 12))
    rows = (labels != -1) @ directions + noise * random.standard_normal((num, 12))
    return np.exp(0.5 * rows).astype(np.float32), labels


@pytest.fixture(scope="module")
def hidden() -> tuple[Rows, Labels, Rows, Labels]:
    """150 training images and 100 of the test, neither easy nor hopeless."""
    return *_images(150, 1, 2.0), *_images(100, 2, 2.0)


def _slow_ap(present: list[bool], scores: list[float]) -> float:
    """Area under the monotone curve, image by image down the ranking."""
    ranked = [present[place] for place in sorted(range(len(scores)), key=lambda place: -scores[place])]
    precision = [sum(ranked[: end + 1]) / (end + 1) for end in range(len(ranked))]
    return sum(max(precision[place:]) for place in range(len(ranked)) if ranked[place]) / sum(ranked)


def _slow(train: Rows, labels: Labels, test: Rows, truth: Labels, config: Config) -> list[tuple[float, float]]:
    """Chosen cost and average precision of each class, written out."""

    def unit(rows: Rows) -> NDArray[np.float64]:
        return np.array([row / (np.sqrt((row**2).sum()) + 1e-5) for row in rows.astype(np.float64)])

    def fitted(cost: float, rows: NDArray[np.float64], targets: NDArray[np.int64]) -> LinearSVC:
        model = LinearSVC(C=cost, class_weight={1: 2, -1: 1}, max_iter=2000, tol=1e-4, random_state=0)
        return model.fit(rows, targets)

    found = []
    for number in range(labels.shape[1]):
        targets = np.where(labels[:, number] == 1, 1, -1)
        means = []
        for cost in config.costs:
            aps = []
            for inside, outside in StratifiedKFold(config.folds).split(train, targets):
                model = fitted(cost, unit(train)[inside], targets[inside])
                aps.append(average_precision_score(targets[outside], model.decision_function(unit(train)[outside])))
            means.append(sum(aps) / len(aps))
        cost = config.costs[means.index(max(means))]
        scores = fitted(cost, unit(train), targets).decision_function(unit(test))
        counted = [place for place in range(len(test)) if truth[place, number] != 0]
        ap = _slow_ap([bool(truth[place, number] == 1) for place in counted], [float(scores[p]) for p in counted])
        found.append((cost, 100 * ap))
    return found


def test_equals_the_slow_loop(hidden: tuple[Rows, Labels, Rows, Labels]) -> None:
    config = Config(costs=COSTS)
    measured = evaluate(*multi_label_splits(*hidden), config)
    expected = _slow(*hidden, config)
    assert len({cost for cost, _ in expected}) > 1
    classes = measured.details["classes"]
    assert list(classes) == ["0", "1", "2", "3"]
    assert [said["cost"] for said in classes.values()] == [cost for cost, _ in expected]
    np.testing.assert_allclose([said["ap"] for said in classes.values()], [ap for _, ap in expected], rtol=1e-12)
    assert measured.metrics["map"] == pytest.approx(sum(ap for _, ap in expected) / 4, rel=1e-12)
    elevens = [said["ap_11_point"] for said in classes.values()]
    assert measured.metrics["map_11_point"] == pytest.approx(sum(elevens) / 4, rel=1e-12)
    for number, said in enumerate(classes.values()):
        assert max(said["cv_mean_ap"], key=said["cv_mean_ap"].get) == str(said["cost"])
        for name, labels in (("train_images", hidden[1]), ("test_images", hidden[3])):
            column = labels[:, number].tolist()
            counts = {"positive": column.count(1), "negative": column.count(-1), "difficult": column.count(0)}
            assert said[name] == counts
    assert json.loads(json.dumps(measured.details)) == measured.details


def test_processes_do_not_matter(hidden: tuple[Rows, Labels, Rows, Labels]) -> None:
    encoder, splits = multi_label_splits(*hidden)
    alone = evaluate(encoder, splits, Config(costs=COSTS))
    several = replace(splits, workers=2)
    several._kept[encoder] = splits._kept[encoder]
    assert evaluate(encoder, several, Config(costs=COSTS)) == alone


def measure(train: Rows, labels: Labels, test: Rows, truth: Labels) -> Measured:
    """On this rank's share of the rows; all ranks must see the same."""
    rank, world_size = distributed.rank(), distributed.world_size()
    encoder, splits = multi_label_splits(train, labels, test, truth)
    for split, whole in list(splits._kept[encoder].items()):
        edges = tuple(len(whole.labels) * number // world_size for number in range(world_size + 1))
        splits._kept[encoder][split] = Features(whole.values[edges[rank] : edges[rank + 1]], whole.labels, edges)
    measured = evaluate(encoder, splits, Config(costs=COSTS))
    values = torch.tensor([list(measured.metrics.values())], dtype=torch.float64)
    everybody = distributed.gather_rows(values)
    assert torch.equal(everybody, values.expand_as(everybody))
    return measured


def test_ranks_do_not_matter(hidden: tuple[Rows, Labels, Rows, Labels], tmp_path: Path) -> None:
    assert run_ranks(measure, 3, tmp_path, *hidden) == measure(*hidden)


def test_separable_classes_reach_100_percent() -> None:
    random = np.random.default_rng(0)
    labels = random.choice(np.array([-1, 1], dtype=np.int8), (200, 3))
    rows = (labels + 2 + 0.1 * random.standard_normal((200, 3))).astype(np.float32)
    rows = np.concatenate([rows, np.full((200, 1), 3, dtype=np.float32)], axis=1)
    measured = evaluate(*multi_label_splits(rows[:100], labels[:100], rows[100:], labels[100:]), Config())
    assert measured.metrics == pytest.approx({"map": 100.0, "map_11_point": 100.0}, abs=1e-9)


def test_meaningless_features_are_at_chance() -> None:
    """A random ranking's average precision is the share of present images; 0.01 above, for the monotone curve."""
    random = np.random.default_rng(0)
    labels = random.choice(np.array([-1, 1], dtype=np.int8), (4000, 3), p=[0.7, 0.3])
    rows = random.standard_normal((4000, 5)).astype(np.float32)
    measured = evaluate(*multi_label_splits(rows[:300], labels[:300], rows[300:], labels[300:]), Config(costs=(1.0,)))
    assert 29 < measured.metrics["map"] < 34


def test_difficult_images_do_not_count_in_the_test(hidden: tuple[Rows, Labels, Rows, Labels]) -> None:
    train, labels, test, truth = hidden
    config = Config(costs=(1.0,))
    measured = evaluate(*multi_label_splits(*hidden), config)
    extra = np.concatenate([test, train[:30]])
    difficult = np.concatenate([truth, np.zeros((30, 4), dtype=np.int8)])
    assert evaluate(*multi_label_splits(train, labels, extra, difficult), config).metrics == measured.metrics
    absent = np.where(labels == 0, -1, labels).astype(np.int8)
    as_absent = evaluate(*multi_label_splits(train, absent, test, truth), config)
    assert as_absent.metrics == measured.metrics  # in training they are negatives
    counted = np.where(truth == 0, -1, truth).astype(np.int8)
    assert evaluate(*multi_label_splits(train, labels, test, counted), config).metrics != measured.metrics


def test_classes_that_cannot_be_measured_are_left_out_and_named(
    hidden: tuple[Rows, Labels, Rows, Labels], caplog: pytest.LogCaptureFixture
) -> None:
    train, labels, test, truth = (array.copy() for array in hidden)
    labels[:, 0] = np.where(np.arange(len(labels)) < 2, 1, -1)
    truth[:, 2] = np.where(truth[:, 2] == 1, 0, truth[:, 2])
    config = Config(costs=(1.0,))
    measured = evaluate(*multi_label_splits(train, labels, test, truth), config)
    assert measured.details["left_out"] == {
        "0": "2 of 150 training images show it; 3 folds need 3 that do and 3 that do not",
        "2": "no test image shows it",
    }
    whole = evaluate(*multi_label_splits(*hidden), config).details["classes"]
    assert measured.details["classes"] == {name: whole[name] for name in ("1", "3")}
    assert measured.metrics["map"] == (whole["1"]["ap"] + whole["3"]["ap"]) / 2
    assert "2 of 4 classes are left out of the mean: 0: 2 of 150 training images" in caplog.text


def test_no_class_left_is_an_error(hidden: tuple[Rows, Labels, Rows, Labels]) -> None:
    train, labels, test, truth = hidden
    with pytest.raises(ValueError, match=r"have no class that svm can measure \(0: no test image shows it; 1: no"):
        evaluate(*multi_label_splits(train, labels, test, np.minimum(truth, 0)), Config())


def test_fits_that_give_up_are_counted(
    hidden: tuple[Rows, Labels, Rows, Labels], caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder
) -> None:
    measured = evaluate(*multi_label_splits(*hidden), Config(costs=(0.001, 1000.0), max_iterations=20))
    counts = measured.details["unconverged_fits"]
    assert counts["0.001"] == 0
    assert 12 <= counts["1000.0"] <= 16
    warnings = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert warnings == [
        f"{counts['1000.0']} of 28 fits did not converge in 20 iterations: {counts['1000.0']} with cost 1000"
    ]
    assert not recwarn.list


def test_classes_have_the_names_of_the_manifest(hidden: tuple[Rows, Labels, Rows, Labels], tmp_path: Path) -> None:
    manifest = {"schema": 1, "classes": ["aeroplane", "bicycle", "bird", "boat"]}
    text = json.dumps(manifest)[:-1] + ',\n"samples": [\n]}\n'
    (tmp_path / "train.beton.json").write_text(text)
    encoder, splits = multi_label_splits(*hidden)
    named = replace(splits, data=replace(splits.data, train=str(tmp_path / "train.beton")))
    named._kept[encoder] = splits._kept[encoder]
    measured = evaluate(encoder, named, Config(costs=(1.0,)))
    assert list(measured.details["classes"]) == manifest["classes"]


def test_another_framing_asks_for_other_features(hidden: tuple[Rows, Labels, Rows, Labels]) -> None:
    encoder, splits = multi_label_splits(*hidden)
    with pytest.raises(ValueError, match=r"no such file"):  # features that are kept are of crops
        evaluate(encoder, splits, Config(framing="squash"))


def test_labels_of_the_wrong_kind_are_refused(hidden: tuple[Rows, Labels, Rows, Labels]) -> None:
    rows = np.eye(3, dtype=np.float32)
    with pytest.raises(ValueError, match=r"has one class per image, allowed for svm: .*linear, knn and few_labels"):
        evaluate(*splits_of(rows, [0, 1, 2], rows, [0, 1, 2]), Config())
    encoder, splits = multi_label_splits(*hidden)
    for name, refused in (
        ("knn", lambda: knn.evaluate(encoder, splits, knn.Config())),
        ("few_labels", lambda: few_labels.evaluate(encoder, splits, few_labels.Config())),
    ):
        with pytest.raises(ValueError, match=rf"show several of 4 classes, allowed for {name}: .* is svm"):
            refused()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"costs": ()}, "costs is \\(\\), allowed: at least one"),
        ({"costs": (1.0, 0.0)}, "costs is \\(1.0, 0.0\\), allowed: above 0"),
        ({"costs": (1.0, 1.0)}, "costs is \\(1.0, 1.0\\), allowed: each number once"),
        ({"folds": 1}, "folds is 1, allowed: 2 or more"),
        ({"positive_weight": 0.0}, "positive_weight is 0.0, allowed: above 0"),
        ({"max_iterations": 0}, "max_iterations is 0, allowed: 1 or more"),
        ({"tolerance": 0.0}, "tolerance is 0.0, allowed: above 0"),
        ({"intercept_scaling": 0.0}, "intercept_scaling is 0.0, allowed: above 0"),
        ({"norm_offset": 0.0}, "norm_offset is 0.0, allowed: above 0"),
        ({"framing": "pad"}, "framing is 'pad', allowed: crop, squash"),
        ({"seed": -1}, "seed is -1, allowed: 0 or more"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Config(**settings)
