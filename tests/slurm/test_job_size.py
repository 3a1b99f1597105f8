"""Sizes of single jobs: how they are read, and what they win against."""

from __future__ import annotations

from typing import Any

import pytest

from slurm.job_size import JobSize, read_size


def test_a_size_is_read_and_completed_by_another() -> None:
    size = read_size("jobs.knn", {"gpus": 2, "time": "0:30:00"})
    assert size == JobSize(gpus=2, time="0:30:00")
    assert size.or_else(JobSize(3, 8, "1:00:00", "gpu")) == JobSize(3, 2, "0:30:00", "gpu")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"gpu": 1}, "jobs.knn has 'gpu', allowed: nodes, gpus, time, partition"),
        ({"gpus": 0}, "jobs.knn.gpus is 0, allowed: a whole number, 1 or more"),
        ({"nodes": "two"}, "jobs.knn.nodes is 'two'"),
        ({"time": "soon"}, "jobs.knn.time is 'soon', allowed: more than 0 as MM"),
        ({"partition": "--all"}, "jobs.knn.partition is '--all', allowed: printable text"),
    ],
)
def test_what_is_wrong_is_said(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as refused:  # noqa: PT011 - the message is looked at below
        read_size("jobs.knn", values)
    assert message in str(refused.value)
