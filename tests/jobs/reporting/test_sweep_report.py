"""The report of a sweep: means and deviations as NumPy has them, the best named, and what is not finished said."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from jobs import report, status
from jobs.planning import sweeps
from jobs.planning.recipes import recipe
from jobs.planning.sweeps import SweepOptions
from jobs.reporting.result_tables import WHAT_FLATTERS
from jobs.reporting.sweep_report import load_sweep, mean_and_deviation, sweep_page, tables
from tests.jobs.html_page import Page
from tests.jobs.measured_runs import write_result
from tests.jobs.run_folders import write_run
from vicreg.config_json import to_json
from vicreg.evals.results import TRAINED

RATES, SEEDS = ("0.1", "0.2", "<b>"), 3
TOP1 = {"0.1": [70.0, 72.5, 71.0], "0.2": [80.0, 80.5, 79.0]}


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nine runs, of which two are missing and the rest is measured; one has ended early."""
    monkeypatch.chdir(tmp_path)
    folder = Path("sweep")
    config = recipe("digits").pretrain
    config = replace(config, model=replace(config.model, encoder="resnet10-narrow", expander="8-8"))
    options = SweepOptions(SEEDS, (f"optimizer.base-lr={','.join(RATES)}",))
    _, whole = sweeps.sweep_of(options, folder, to_json(config), ["--recipe", "digits"])
    sweeps.write_sweep(folder, whole)
    for trial in whole.trials:
        rate, run = trial.settings["optimizer.base-lr"], folder / trial.name
        if rate not in TOP1:
            continue
        write_run(run, config, "digits", trial.seed)
        value = TOP1[rate][trial.seed]
        lines = [{"step": step, "epoch": step, "online_top1": value / (2 - step)} for step in range(2)]
        (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        write_result(run, "knn", TRAINED, {"top1_20_neighbours": value})
    (folder / "base-lr-0.2_seed-2" / "encoder.pt").unlink()
    early = {"step": 2, "reason": "online_top1 was 70.00 after epoch 2, below 75"}
    (folder / "base-lr-0.1_seed-0" / "ended_early.json").write_text(json.dumps(early))
    return folder


def test_means_and_deviations_are_those_of_numpy() -> None:
    for values in TOP1.values():
        assert mean_and_deviation(values) == pytest.approx((np.mean(values), np.std(values, ddof=1)))
    assert mean_and_deviation([3.0]) == (3.0, None)
    assert mean_and_deviation([]) == (None, None)


def test_the_tables_have_all_combinations(sweep: Path) -> None:
    knn, online = tables(load_sweep(sweep))
    assert knn.headers == ["base-lr", "runs", "top-1, 20 neighbours"]
    assert knn.rows == [
        ["0.1", "3 of 3", "71.2 ± 1.3"],
        ["0.2", "2 of 3, not finished", "80.2 ± 0.4"],
        ["<b>", "0 of 3, not finished", "–"],
    ]
    assert knn.best == {(1, 2)}
    assert online.rows[0] == ["0.1", "3 of 3", "71.2 ± 1.3"]  # the last that was measured, not the first


def test_the_best_epoch_is_named_so_and_stands_behind_the_last(sweep: Path) -> None:
    write_result(sweep / "base-lr-0.2_seed-0", "linear", TRAINED, {"top1": 81.0, "top1_last_epoch": 80.0})
    swept = load_sweep(sweep)
    _, linear, _ = tables(swept)
    assert linear.headers == ["base-lr", "runs", "top-1", "top-1, best epoch †"]
    assert linear.rows[1] == ["0.2", "1 of 3, not finished", "80.0", "81.0"]
    assert WHAT_FLATTERS in sweep_page(swept)


def test_the_report_is_printed_and_written(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report.main([str(sweep)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    text = (sweep / "report.md").read_text()
    for words in (said, text):
        assert "Best so far by knn, top-1, 20 neighbours: base-lr 0.2 (80.2 ± 0.4 %, 2 runs)." in words
        assert "3 combinations, 9 runs, of which 5 are finished" in words
        assert "jobs/pretrain.py --recipe digits" in words
    assert "base-lr-0.2_seed-2 (in epoch 2 of 45)" in said
    assert "base-lr-b_seed-1 (not started)" in said
    assert "base-lr-0.1_seed-0 (online_top1 was 70.00 after epoch 2, below 75)" in said
    page = Page((sweep / "report.html").read_text())
    assert page.sections() == ["Over the swept values", "Results"]
    assert "&lt;b&gt;" in page.text
    assert "<td><b>" not in page.text
    assert '<th scope="row"><b>' not in page.text


def test_nothing_measured_is_no_error(tmp_path: Path) -> None:
    options = SweepOptions(2)
    _, whole = sweeps.sweep_of(options, tmp_path, to_json(recipe("digits").pretrain), ["--seeds", "2"])
    sweeps.write_sweep(tmp_path, whole)
    page = Page(sweep_page(load_sweep(tmp_path)))
    assert "2 runs, of which 0 are finished" in page.said()
    assert "seed-0 (not started)" in page.said()


def test_the_status_of_a_sweep_is_one_table(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status.main([str(sweep)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["sweep", "5", "of", "9", "runs", "finished"]
    rows = [line.split() for line in lines[2:] if line.split()[:1] and line.split()[0] in RATES]
    assert [row[:3] for row in rows] == [
        ["0.1", "0", "finished"],
        ["0.1", "1", "finished"],
        ["0.1", "2", "finished"],
        ["0.2", "0", "finished"],
        ["0.2", "1", "finished"],
        ["0.2", "2", "not"],
        *([["<b>", str(seed), "not"] for seed in range(SEEDS)]),
    ]
    assert rows[1][3:5] == ["72.5", "%"]
    assert "ended early" in " ".join(rows[0])
    assert status.main([str(sweep.parent / "sweep"), "--cancel"]) == 0
    assert capsys.readouterr().out.count("no job waits or runs") == 6
