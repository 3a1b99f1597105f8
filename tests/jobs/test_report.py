"""The report: numbers beside their baselines, beside published ones only where the data are the same, and in a file."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jobs import report
from jobs.execution import report as execution
from jobs.planning.recipes import evaluation_settings, evaluations, recipe
from jobs.reporting.document import Table, markdown
from tests.jobs.run_folders import write_run
from vicreg.config import PretrainConfig
from vicreg.config_json import from_json, to_json
from vicreg.evals import protocols, results
from vicreg.evals.results import PIXELS, RANDOM, TRAINED, Result
from vicreg.exchange.encoder_file import checksum, load_encoder


def _small(name: str) -> PretrainConfig:
    """A recipe with the narrow encoder, which is quick to write."""
    config = recipe(name).pretrain
    return replace(config, model=replace(config.model, encoder="resnet10-narrow"))


def _result(run: Path, recipe_name: str, name: str, subject: str, metrics: dict[str, float], **other: Any) -> None:
    """Write a result of the recipe's evaluation with these metrics."""
    item = next(item for item in evaluations(recipe_name) if item.name == name)
    settings = to_json(from_json(evaluation_settings(item.module), item.settings))
    values: dict[str, Any] = {
        "evaluation": name,
        "module": item.module,
        "subject": subject,
        "metrics": metrics,
        "settings": settings,
        "data": _data(1437, 360),
        "num_classes": 10,
        "num_features": 128,
        "encoder_sha256": checksum(load_encoder(run / "encoder.pt")),
        "duration_s": 1.0,
        "num_ranks": 1,
        "device": "CPU",
        "versions": {},
        "finished": "",
    }
    results.write(run, Result(**(values | other)))


def _data(num_train: int, num_val: int) -> dict[str, Any]:
    return {
        "train": {"path": "data/digits/train.beton", "num_images": num_train, "size_bytes": 1, "fingerprint": "a"},
        "val": {"path": "data/digits/val.beton", "num_images": num_val, "size_bytes": 1, "fingerprint": "b"},
    }


ROOT = Path(__file__).parents[2]
FEW = {"top1_10_labels": 72.44, "top1_10_labels_std": 4.1, "top1_1437_labels": 98.06}


@pytest.fixture
def digits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of the digits recipe with a part of its results; the report is asked for from the folder above."""
    monkeypatch.chdir(tmp_path)
    run = Path("digits")
    write_run(run, _small("digits"), "digits")
    lines = [
        {"step": step, "epoch": step // 5, "images_per_s": rate, "elapsed_s": 10.0 * step}
        for step, rate in ((0, 100.0), (5, 3000.0), (10, 3200.0))
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    _result(run, "digits", "few-labels", TRAINED, FEW)
    random = {"top1_10_labels": 36.5, "top1_10_labels_std": 4.5, "top1_1437_labels": 94.2}
    _result(run, "digits", "few-labels", RANDOM, random, encoder_sha256="of the random weights")
    _result(run, "digits", "few-labels", PIXELS, {"top1_10_labels": 50.0, "top1_1437_labels": 98.1})
    return run


def _print(*runs: Path) -> str:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "110")
        assert report.main([str(run) for run in runs]) == 0
    return (runs[0] / "report.md").read_text()


def _row(text: str, start: str) -> list[str]:
    """Cells of the Markdown row in which `start` stands."""
    line = next(line for line in text.splitlines() if start in line and line.startswith("|"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_trained_stands_beside_its_baselines(digits: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = _print(digits)
    assert _row(text, "evaluation") == ["evaluation", "measure", "trained", "random weights", "raw pixels"]
    assert _row(text, "10 labels") == ["few-labels", "top-1, 10 labels", "**72.4 ± 4.1**", "36.5 ± 4.5", "50.0"]
    assert _row(text, "1437 labels")[1:] == ["top-1, 1437 labels", "**98.1**", "94.2", "**98.1**"]  # equal as printed
    printed = capsys.readouterr().out
    assert "72.4 ± 4.1 *" in printed
    assert f"written: {digits / 'report.md'}" in printed
    assert not list(digits.glob(".*.tmp"))


def test_says_what_the_run_is(digits: Path) -> None:
    text = _print(digits)
    length = recipe("digits").pretrain.train
    assert "# digits\n" in text
    assert (
        f"recipe digits, resnet10-narrow at 32 px, {length.epochs} epochs of data/digits/train.beton (1,437 images)"
        in text
    )
    assert f"{length.global_batch} images a step, 3,000 images/s, trained for 0:01:40 (h:mm:ss)." in text


def test_says_what_is_missing_and_how_to_get_it(digits: Path) -> None:
    text = _print(digits)
    assert "Missing: knn (trained), linear (trained), semisup-1 (trained)" in text
    assert f"    python {ROOT / 'jobs/eval_all.py'} digits\n" in text


def test_other_settings_than_the_defaults_are_named(digits: Path) -> None:
    _result(digits, "digits", "linear", TRAINED, {"top1": 90.0})
    assert "linear: not the default settings (" in _print(digits)
    assert "hflip_p: 0.5 -> 0.0" in _print(digits)


def test_a_result_of_other_weights_is_left_out_and_said(digits: Path) -> None:
    _result(digits, "digits", "few-labels", TRAINED, FEW, encoder_sha256="of another encoder")
    text = _print(digits)
    assert "Left out, because it no longer holds: few-labels, trained: other weights." in text
    assert "72.4" not in text


def test_a_damaged_result_counts_as_missing(digits: Path) -> None:
    (digits / "evals" / "few-labels" / "result.json").write_text("{")
    assert "Missing: few-labels (trained)" in _print(digits)


def test_an_unfinished_run_is_said(digits: Path) -> None:
    (digits / "encoder.pt").unlink()
    text = _print(digits)
    assert "now in epoch 3" in text
    assert "Not finished. Nothing is measured. Go on with" in text
    assert f"    python {ROOT / 'jobs/pretrain.py'} --run digits\n" in text
    assert "|" not in text


def test_no_published_number_beside_other_data(digits: Path) -> None:
    assert "published" not in _print(digits)


@pytest.fixture
def imagenet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run on the whole of ImageNet, by its counts."""
    monkeypatch.chdir(tmp_path)
    run = Path("imagenet")
    write_run(run, _small("imagenet-1000ep"), "imagenet-1000ep")
    whole = {"data": _data(1_281_167, 50_000), "num_classes": 1000}
    _result(run, "imagenet-1000ep", "linear", TRAINED, {"top1": 72.9, "top5": 90.8}, **whole)
    _result(run, "imagenet-1000ep", "knn", TRAINED, {"top1_20_neighbours": 64.0, "top1_200_neighbours": 62.0}, **whole)
    return run


def test_imagenet_stands_beside_the_published_numbers(imagenet: Path) -> None:
    text = _print(imagenet)
    assert _row(text, "| method") == [
        "",
        "method",
        "linear top-1 (Table 1)",
        "linear top-5 (Table 1)",
        "20-NN top-1 (Table 11)",
        "200-NN top-1 (Table 11)",
    ]
    assert _row(text, "| measured")[1:] == ["imagenet", "72.9", "90.8", "64.0", "62.0"]
    assert _row(text, "| VICReg") == ["published", "VICReg", "73.2", "91.1", "64.5", "62.8"]
    assert _row(text, "| SimSiam") == ["published", "SimSiam", "71.3", "–", "–", "–"]
    assert "resnet10-narrow, 1000 epochs of data/imagenet/train.beton, batch 2048. Published: ResNet-50" in text
    assert "arXiv 2105.04906" in text


def test_a_part_of_imagenet_is_not_imagenet(imagenet: Path) -> None:
    part = {"data": _data(1_281_166, 50_000), "num_classes": 1000}
    for name, metrics in (("linear", {"top1": 72.9}), ("knn", {"top1_20_neighbours": 64.0})):
        _result(imagenet, "imagenet-1000ep", name, TRAINED, metrics, **part)
    assert "published" not in _print(imagenet)


def test_all_is_written_before_anything_is_printed(digits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(*_: object) -> None:
        raise BrokenPipeError

    other = shutil.copytree(digits, digits.with_name("other"))
    monkeypatch.setattr(execution, "show", closed)
    with pytest.raises(BrokenPipeError):
        report.main([str(digits), str(other)])
    for file in (digits / "report.md", digits / "report.html", other / "report.html", digits / "comparison.md"):
        assert file.stat().st_size


def test_runs_stand_side_by_side(digits: Path) -> None:
    other = Path("other")
    write_run(other, _small("digits"), "digits", encoder_seed=8)
    _result(other, "digits", "few-labels", TRAINED, FEW | {"top1_10_labels": 80.0})
    _print(digits, other)
    text = (digits / "comparison.md").read_text()
    assert _row(text, "10 labels") == ["few-labels", "top-1, 10 labels", "72.4 ± 4.1", "**80.0 ± 4.1**"]
    assert _row(text, "evaluation")[2:] == ["digits", "other"]
    assert (other / "report.md").exists()


def test_no_best_among_unlike_runs(digits: Path) -> None:
    other = Path("other")
    write_run(other, _small("digits"), "digits", encoder_seed=8)
    _result(other, "digits", "few-labels", TRAINED, FEW | {"top1_10_labels": 80.0}, data=_data(1000, 360))
    _print(digits, other)
    text = (digits / "comparison.md").read_text()
    assert "**" not in text
    assert "Not measured alike, so no best is marked: few-labels of other: other data (train)." in text


def test_what_is_no_run_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        report.main([str(tmp_path)])
    assert stop.value.code == 1
    assert "is no run folder" in capsys.readouterr().err


def test_decimal_points_stand_below_each_other() -> None:
    table = Table("t", ["name", "a", "b"], num_names=1)
    table.add(["x"], [9.96, 100.0], [0.25, None], mark=True)
    table.add(["y"], [1.0, 3.0], [None, 12.0], mark=True)
    assert table.aligned() == [["x", "10.0 ± 0.2", "100.0 *       "], ["y", "1.0      ", "3.0 ± 12.0 *"]]
    points = [row[2].rjust(14).index(".") for row in table.aligned()]
    assert len(set(points)) == 1
    assert markdown([table]).splitlines() == [
        "t:",
        "",
        "| name |          a |              b |",
        "|------|-----------:|---------------:|",
        "| x    | 10.0 ± 0.2 |      **100.0** |",
        "| y    |        1.0 | **3.0 ± 12.0** |",
    ]


def test_a_number_alone_is_not_the_best() -> None:
    table = Table("t", ["name", "a", "b"], num_names=1)
    table.add(["x"], [None, 3.0], [None, None], mark=True)
    assert table.rows == [["x", "–", "3.0"]]
    assert not table.best


def test_published_tables_are_consistent() -> None:
    methods = {method for column in protocols.COLUMNS for method in column.values}
    assert protocols.OURS in methods
    for column in protocols.COLUMNS:
        assert all(0 < value < 100 for value in column.values.values())
        assert protocols.OURS in column.values
        assert column.evaluation in protocols.PRESETS
    for preset in protocols.PRESETS.values():
        from_json(evaluation_settings(preset.module), preset.settings)
