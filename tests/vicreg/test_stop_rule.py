"""Rules that end a run early: what they say of a measurement, and that one which could never be asked is refused."""

from __future__ import annotations

import pytest

from vicreg.config import OnlineConfig
from vicreg.stop_rule import StopRule, stop_rules


def test_a_rule_is_its_measure_its_side_its_number_and_its_epoch() -> None:
    below, above = stop_rules("online_top1<30@20, knn_top1 > 99.5@40", every_epochs=10, neighbours=20)
    assert below == StopRule("online_top1", "<", 30.0, 20)
    assert above == StopRule("knn_top1", ">", 99.5, 40)
    assert below.said_of({"online_top1": 29.99}) == "online_top1 was 29.99 after epoch 20, below 30"
    assert below.said_of({"online_top1": 30.0}) == ""
    assert above.said_of({"knn_top1": 99.6}) == "knn_top1 was 99.60 after epoch 40, above 99.5"
    assert stop_rules("", every_epochs=0, neighbours=0) == ()


@pytest.mark.parametrize(
    ("text", "every", "neighbours", "said"),
    [
        ("online_top1<30@20", 0, 20, "--online.every-epochs"),
        ("online_top1<30@25", 10, 20, "multiples of every_epochs"),
        ("online_top1<30@0", 10, 20, "multiples of every_epochs"),
        ("online_top1=30@20", 10, 20, "MEASURE<PERCENT@EPOCH"),
        ("loss<30@20", 10, 20, "measures: online_top1, knn_top1"),
        ("knn_top1<30@20", 10, 0, "measures: online_top1"),
        ("online_top1<30@20,", 10, 20, "MEASURE<PERCENT@EPOCH"),
    ],
)
def test_what_could_never_be_asked_is_refused(text: str, every: int, neighbours: int, said: str) -> None:
    with pytest.raises(ValueError, match=said) as refused:
        OnlineConfig(every, neighbours=neighbours, stop_if=text)
    assert "stop_if" in str(refused.value)


def test_a_best_checkpoint_needs_its_measure() -> None:
    assert OnlineConfig(1, keep_best="knn_top1").keep_best == "knn_top1"
    for every, neighbours, best in ((0, 20, "online_top1"), (1, 0, "knn_top1"), (1, 20, "loss")):
        with pytest.raises(ValueError, match="keep_best"):
            OnlineConfig(every, neighbours=neighbours, keep_best=best)
