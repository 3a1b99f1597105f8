"""Runs are found wherever they lie, looked at again only where something has changed, and compared by what differs."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks.board import write_runs
from jobs.serving import overview
from jobs.serving.overview import Overview, find_runs, said
from jobs.watching.followed_files import OnlineMeasures


def test_runs_are_found_at_any_depth_and_none_in_a_run(tmp_path: Path) -> None:
    for name in ("a", "sweep/b", "x/y/z/c", "a/inner", ".hidden", "too/deep/for/a/run"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "config.json").write_text("{}")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    assert [str(path.relative_to(tmp_path)) for path in find_runs(tmp_path)] == ["a", "sweep/b", "x/y/z/c"]
    assert list(find_runs(tmp_path / "a")) == [tmp_path / "a"]


def test_what_differs_is_said_with_its_values(tmp_path: Path) -> None:
    runs = write_runs(tmp_path, 4, 10)
    older = json.loads((runs[0] / "config.json").read_text())
    del older["pretrain"]["online"]["stop_if"]
    (runs[0] / "config.json").write_text(json.dumps(older))
    found = Overview(tmp_path).look()
    assert set(found["settings"]) == {"optimizer.base_lr", "train.seed"}
    rates = {found["runs"][run_id]["name"]: value for run_id, value in found["settings"]["optimizer.base_lr"].items()}
    assert rates == {"run-000": "0.1", "run-001": "0.1", "run-002": "0.1", "run-003": "0.2"}
    assert said(0.1 + 0.2) == "0.3"
    assert said(["a", 1.5]) == "a, 1.5"


def test_the_best_is_that_of_all_lines_and_the_last_is_the_last(tmp_path: Path) -> None:
    values = [30.0, 71.5, math.nan, 71.5, 60.25]
    lines: list[dict[str, Any]] = [{"step": step, "epoch": step // 10, "loss": 1.0} for step in range(50)]
    for epoch, value in enumerate(values):
        lines[10 * epoch + 9] |= {"online_top1": value, "knn_top1": 2 * epoch}
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    measures = OnlineMeasures(tmp_path)
    assert measures.read_on()
    assert measures.best == {"online_top1": (71.5, 2), "knn_top1": (8, 5)}
    assert measures.last == {"online_top1": (60.25, 5), "knn_top1": (8, 5)}


def test_a_file_is_read_on_and_anew_where_it_was_cut(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    measures = OnlineMeasures(tmp_path)
    assert measures.read_on()  # there is none yet

    def line(step: int, value: float) -> str:
        return json.dumps({"step": step, "epoch": step, "online_top1": value}) + "\n"

    path.write_text(line(0, 10.0) + line(1, 90.0)[:-9])
    measures.read_on()
    assert measures.best["online_top1"] == (10.0, 1)  # the other line is being written
    path.write_text(line(0, 10.0) + line(1, 90.0))
    offset = measures.offset
    measures.read_on()
    assert measures.best["online_top1"] == (90.0, 2)
    assert measures.offset > offset
    path.write_text(line(0, 10.0) + line(1, 50.0) + line(2, 40.0))  # cut by a resumed run, and longer than before
    measures.read_on()
    assert measures.best["online_top1"] == (50.0, 2)
    path.write_text(line(0, 20.0))
    measures.read_on()
    assert (measures.best, measures.offset) == ({"online_top1": (20.0, 1)}, path.stat().st_size)


def test_what_is_not_read_by_the_deadline_comes_with_the_next_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_runs(tmp_path, 3, 200)
    monkeypatch.setattr(overview, "LOOK_S", -1.0)
    board = Overview(tmp_path)
    assert not any(run["is_read"] or run["measured"] for run in board.look()["runs"].values())
    monkeypatch.setattr(overview, "LOOK_S", 60.0)
    assert all(run["is_read"] and run["measured"]["online_top1"] > 0 for run in board.look()["runs"].values())


def test_a_run_that_is_over_is_not_looked_at_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = write_runs(tmp_path, 3, 20)
    board = Overview(tmp_path)
    board.look()
    looked: list[Path] = []
    real = overview.collect
    monkeypatch.setattr(overview, "collect", lambda run, queue: looked.append(run) or real(run, queue))
    board.look()
    assert looked == []
    time.sleep(0.01)
    with (runs[1] / "metrics.jsonl").open("a") as file:
        file.write('{"step": 20, "epoch": 0}\n')
    board.look()
    assert looked == [runs[1]]
