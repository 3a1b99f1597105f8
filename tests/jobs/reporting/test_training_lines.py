"""Of a long metrics.jsonl a report holds lines that are evenly spread, the last one, and all that have rare fields."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import report
from jobs.reporting import training_lines
from jobs.reporting.training_lines import RARE_SHARE
from vicreg.run_files import METRICS_FILE, read_metrics

NUM_LINES, AT_MOST = 5000, 100


def _line(step: int) -> dict[str, Any]:
    seldom = {"knn_top1": step / 100} if step % 1000 == 777 else {}
    return {"step": step, "epoch": step // 100, "loss": 1 / (step + 1), "elapsed_s": float(step)} | seldom


@pytest.fixture
def run(tmp_path: Path) -> Path:
    lines = [json.dumps(_line(step)) + "\n" for step in range(NUM_LINES)]
    (tmp_path / METRICS_FILE).write_text("".join(lines))
    return tmp_path


def test_all_lines_of_a_short_file_are_there(run: Path) -> None:
    read = training_lines.read(run)
    assert read.lines == read_metrics(run) == [_line(step) for step in range(NUM_LINES)]
    assert (read.num_unread, read.every) == (0, 1)


def test_of_a_long_file_some_are_there_and_all_that_are_seldom(run: Path) -> None:
    read = training_lines.read(run, AT_MOST)
    assert read.lines == [_line(line["step"]) for line in read.lines]
    steps = [line["step"] for line in read.lines]
    assert steps[0] == 0
    assert steps[-1] == NUM_LINES - 1
    assert AT_MOST / 2 < len(steps) <= 2 * AT_MOST + NUM_LINES // RARE_SHARE
    assert np.diff(steps).max() <= read.every
    assert [step for step in steps if step % 1000 == 777] == [777, 1777, 2777, 3777, 4777]


@pytest.mark.parametrize("at_most", [AT_MOST, 10 * NUM_LINES])
def test_lines_that_are_none_are_counted_and_the_unfinished_one_is_not(run: Path, at_most: int) -> None:
    with (run / METRICS_FILE).open("ab") as file:
        file.write(bytes(10) + b"\n[]\nhalf a li\n" + json.dumps(_line(NUM_LINES)).encode() + b'\n{"step": 5001')
    read = training_lines.read(run, at_most)
    assert read.num_unread == 3
    assert read.lines[-1] == _line(NUM_LINES)


def test_fields_that_come_for_good_are_not_taken_for_seldom_ones(run: Path) -> None:
    with (run / METRICS_FILE).open("a") as file:
        for step in range(NUM_LINES, 2 * NUM_LINES):
            file.write(json.dumps(_line(step) | {"more": 1, "and more": 2}) + "\n")
    assert len(training_lines.read(run, AT_MOST).lines) <= 2 * AT_MOST + 3 * 2 * NUM_LINES // RARE_SHARE


def test_without_a_file_there_are_no_lines(tmp_path: Path) -> None:
    assert training_lines.read(tmp_path).lines == []


def test_the_benchmark_writes_what_is_read(tmp_path: Path) -> None:
    num_lines = report.write_lines(tmp_path / METRICS_FILE, 100_000)
    assert report.measure("every line", tmp_path)[2] == report.measure("the report", tmp_path)[2] == num_lines
