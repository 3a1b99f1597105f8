"""Settings of evaluations by option: read by their types, and refused with the valid names."""

from __future__ import annotations

import pytest

from jobs.planning.eval_options import read_options
from jobs.planning.recipes import evaluations

KNOWN = {each.name: each for each in evaluations("digits")}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("linear.epochs=20", {"linear": {"epochs": 20}}),
        ("knn.neighbours=5", {"knn": {"neighbours": [5]}}),
        ("knn.neighbours=5,20", {"knn": {"neighbours": [5, 20]}}),
        ("knn.votes=weighted,unweighted", {"knn": {"votes": ["weighted", "unweighted"]}}),
        ("linear.lr=1", {"linear": {"lr": 1.0}}),
        ("linear.crop_scale=0.2,1", {"linear": {"crop_scale": [0.2, 1.0]}}),
        ("linear.grid_lrs=", {"linear": {"grid_lrs": []}}),
        ("linear.batch_norm=true", {"linear": {"batch_norm": True}}),
        ("semisup-1.subset=mine", {"semisup-1": {"subset": "mine"}}),
        ("multi-label.folds=5", {"multi-label": {"folds": 5}}),
    ],
)
def test_a_setting_is_read_by_its_type(text: str, expected: object) -> None:
    assert read_options([text], KNOWN) == expected


def test_several_go_together() -> None:
    texts = ["linear.epochs=10", "linear.milestones=4,8", "knn.neighbours=1"]
    expected = {"linear": {"epochs": 10, "milestones": [4, 8]}, "knn": {"neighbours": [1]}}
    assert read_options(texts, KNOWN) == expected


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("linear", ["EVALUATION.SETTING=VALUE", "linear.epochs=20"]),
        ("liner.epochs=3", ["no evaluation 'liner'", "did you mean linear?", "few-labels, knn, linear"]),
        ("knn.neighbors=5", ["no setting 'neighbors'", "did you mean neighbours?", "neighbours (20,200)"]),
        ("linear.epochs=many", ["'many'", "allowed: a whole number"]),
        ("linear.epochs=2.5", ["'2.5'", "allowed: a whole number"]),
        ("linear.epochs=0", ["epochs is 0, allowed: 1 or more"]),
        ("linear.lr=inf", ["'inf'", "allowed: a number"]),
        ("linear.batch_norm=2", ["allowed: True or False"]),
        ("knn.votes=loud", ["votes", "weighted"]),
    ],
)
def test_what_is_wrong_is_said_with_what_is_right(text: str, parts: list[str]) -> None:
    with pytest.raises(ValueError, match="--set") as refused:
        read_options([text], KNOWN)
    for part in parts:
        assert part in str(refused.value)
