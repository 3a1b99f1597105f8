"""What may stand beside published numbers: the same data, and for CIFAR-10 the same pixels."""

from __future__ import annotations

import dataclasses
import html
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dataprep import write_ffcv
from jobs.execution.report import describe_run
from jobs.planning.recipes import evaluation_settings, recipe
from jobs.reporting.document import Table, Text
from jobs.reporting.html_report import run_page
from jobs.reporting.measured_run import Run, load_run
from jobs.reporting.published_tables import ROWS_OF, published
from jobs.reporting.result_tables import data_set_name, matched_classes, measured_tables, other_settings, say_metric
from tests.jobs.measured_runs import write_result
from tests.jobs.run_folders import write_run
from vicreg import methods
from vicreg.config_json import from_json, to_json
from vicreg.evals import protocols
from vicreg.evals.protocols import DataSet
from vicreg.evals.results import TRAINED


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run without results."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    write_run(folder, recipe("digits").pretrain, "digits")
    return folder


def _data(folder: Path, num_train: int, num_val: int) -> dict[str, Any]:
    counts = {"train": num_train, "val": num_val}
    return {split: {"path": str(folder / f"{split}.beton"), "num_images": counts[split]} for split in counts}


def _raw_images(folder: Path, ending: str) -> None:
    """Two training images and one validation image of each of ten classes."""
    random = np.random.default_rng(0)
    for split, number in (("train", 2), ("val", 1)):
        for label in range(10):
            for image in range(number):
                path = folder / split / f"class_{label}" / f"{image}.{ending}"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(random.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(path)


@pytest.mark.parametrize(
    ("source", "ending", "options", "name"),
    [
        ("cifar10", "png", ["--write-mode", "raw"], "CIFAR-10"),
        ("cifar10", "png", ["--write-mode", "jpg"], "JPEG CIFAR-10"),
        ("cifar10", "jpg", [], "JPEG CIFAR-10"),
        ("cifar10", "JPEG", ["--write-mode", "raw"], "JPEG CIFAR-10"),
        ("cifar10", "png", ["--write-mode", "raw", "--max-resolution", "16"], "JPEG CIFAR-10"),
        ("folder", "png", ["--write-mode", "raw"], ""),
    ],
)
def test_cifar10_is_what_has_its_pixels(
    source: str, ending: str, options: list[str], name: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocols, "DATA_SETS", (DataSet("CIFAR-10", 20, 10, 10),))
    _raw_images(tmp_path, ending)
    for split in ("train", "val"):
        arguments = [source, "--root", str(tmp_path), "--split", split, "--out", str(tmp_path), "--num-workers", "0"]
        assert write_ffcv.main([*arguments, *options, "--allow-partial"]) == 0
    write_result(run, "knn", TRAINED, {"top1_20_neighbours": 90.0}, data=_data(tmp_path, 20, 10))
    loaded = load_run(run)
    assert data_set_name(loaded.results["knn", TRAINED]) == name
    title = measured_tables(loaded)[0].title
    assert ("JPEG CIFAR-10, 10 images" in title) == name.startswith("JPEG")
    for split in ("train", "val"):
        (tmp_path / f"{split}.beton.json").unlink()
    assert data_set_name(loaded.results["knn", TRAINED]) == ""


def _published(run: Run) -> tuple[list[Table], list[str]]:
    blocks = published([run])
    return [block for block in blocks if isinstance(block, Table)], [
        block.text for block in blocks if isinstance(block, Text)
    ]


def test_every_data_set_has_a_table_of_its_own(run: Path, tmp_path: Path) -> None:
    write_result(run, "linear", TRAINED, {"top1": 72.9}, data=_data(tmp_path, 1_281_167, 50_000), num_classes=1000)
    other: dict[str, Any] = {"data": _data(tmp_path, 5_011, 4_952), "num_classes": 20, "evaluation": "voc07"}
    write_result(run, "svm", TRAINED, {"map": 86.0, "map_11_point": 80.0}, **other)
    part: dict[str, Any] = {"data": _data(tmp_path, 1_281_166, 50_000), "num_classes": 1000}
    write_result(run, "knn", TRAINED, {"top1_20_neighbours": 60.0}, **part)
    tables, notes = _published(load_run(run))
    assert [table.headers[2:] for table in tables] == [["linear top-1 (Table 1)"], ["mAP (Table 2)"]]
    assert [table.rows[0] for table in tables] == [["measured", str(run), "72.9"], ["measured", str(run), "86.0"]]
    assert [table.own for table in tables] == [{0}, {0}]
    assert "linear of " in notes[0]
    assert "has other settings than published (" in notes[0]  # those of the digits
    assert "grid_" not in notes[0]
    assert "has other settings" not in notes[1]


def test_classes_that_were_matched_by_name_are_said(run: Path) -> None:
    data: dict[str, Any] = _data(Path("data"), 40, 30)
    data["classes"] = {"matched": 3, "of": 15, "without_val_images": [f"class {n}" for n in range(12)]}
    for module in ("knn", "linear"):
        write_result(run, module, TRAINED, {"top1": 90.0}, data=data)
    shown = ", ".join(f"class {n}" for n in range(10))
    line = "The classes of data/val.beton were matched by their names with 3 of the 15 classes of data/train.beton; "
    line += f"it has no images of 12 ({shown}, ...)."
    loaded = load_run(run)
    assert matched_classes(loaded) == [line]
    assert Text(line) in describe_run(loaded)
    assert line in html.unescape(run_page(loaded))


def test_settings_are_compared_with_the_published_ones(run: Path, tmp_path: Path) -> None:
    whole: dict[str, Any] = {"data": _data(tmp_path, 5_011, 4_952), "num_classes": 20, "evaluation": "voc07"}
    settings = to_json(evaluation_settings("svm")(framing="squash"))
    write_result(run, "svm", TRAINED, {"map": 86.0}, settings=settings, **whole)
    _, notes = _published(load_run(run))
    assert "voc07 of " in notes[-1]
    assert "(framing: 'crop' -> 'squash')" in notes[-1]


def test_detection_stands_beside_table_2(tmp_path: Path) -> None:
    run = tmp_path / "run"
    write_run(run, recipe("digits").pretrain, "digits")
    voc: dict[str, Any] = {"data": _data(tmp_path, 16_551, 4_952), "num_classes": 20, "evaluation": "voc-detection"}
    write_result(run, "detection", TRAINED, {"ap50": 80.5, "ap": 55.0, "ap75": 61.0, "ap50_area": 81.0}, **voc)
    coco: dict[str, Any] = {"data": _data(tmp_path, 118_287, 5_000), "num_classes": 80, "evaluation": "coco-detection"}
    settings = to_json(from_json(evaluation_settings("detection"), protocols.PRESETS["coco-detection"].settings))
    write_result(run, "detection", TRAINED, {"ap_box": 38.5, "ap_mask": 35.5}, settings=settings, **coco)
    blocks = published([load_run(run)])
    first, second = (block for block in blocks if isinstance(block, Table))
    assert "VOC07+12" in first.title
    assert first.headers[2:] == ["AP50 (Table 2)"]
    assert (first.rows[0][-1], first.rows[1][1:]) == ("80.5", ["VICReg", "82.4"])
    assert "COCO 2017" in second.title
    assert (second.rows[0][-2:], second.rows[1][1:]) == (["38.5", "35.5"], ["VICReg", "39.4", "36.4"])
    assert "other settings than published" not in " ".join(block.text for block in blocks if isinstance(block, Text))
    assert [say_metric(name) for name in ("ap50", "ap50_area", "ap_mask")] == ["AP50", "AP50, area", "AP, mask"]


def test_a_run_without_a_published_number_has_no_row(run: Path, tmp_path: Path) -> None:
    whole: dict[str, Any] = {"data": _data(tmp_path, 5_011, 4_952), "num_classes": 20, "evaluation": "voc07"}
    write_result(run, "svm", TRAINED, {"map": 86.0}, **whole)
    write_run(tmp_path / "other", recipe("digits").pretrain, "digits")
    tables = [block for block in published([load_run(tmp_path / "other"), load_run(run)]) if isinstance(block, Table)]
    rows = [row for row in tables[-1].rows if row[0] == "measured"]
    assert rows == [["measured", str(run), "86.0"]]
    assert tables[-1].own == {0}


@pytest.mark.parametrize("method", methods.names())
def test_the_published_row_of_a_runs_method_stands_below_it(method: str, tmp_path: Path) -> None:
    config = dataclasses.replace(recipe("digits").pretrain, method=methods.load(method).Config())
    write_run(tmp_path / "run", config, "digits")
    whole: dict[str, Any] = {"data": _data(tmp_path, 1_281_167, 50_000), "num_classes": 1000}
    write_result(tmp_path / "run", "linear", TRAINED, {"top1": 60.0}, **whole)
    (table,) = (block for block in published([load_run(tmp_path / "run")]) if isinstance(block, Table))
    assert table.rows[0] == ["measured", str(tmp_path / "run"), "60.0"]
    of_method = ROWS_OF.get(method, ())
    assert bool(of_method) is (
        method not in ("supcon", "sigreg", "clip", "vse_pp")
    )  # of which VICReg's paper has no row
    below = [row for row in table.rows[1:] if row[1] in of_method]
    assert table.rows[1 : 1 + len(below)] == below
    assert sorted(row[1] for row in below) == sorted(of_method)
    assert all(float(row[2]) > 60 for row in below)


def test_every_row_of_a_method_is_published() -> None:
    printed = {method for column in protocols.COLUMNS for method in column.values}
    assert {row for rows in ROWS_OF.values() for row in rows} <= printed


def test_the_last_epoch_leads_and_what_flatters_is_marked(run: Path, tmp_path: Path) -> None:
    metrics = {"top1": 90.0, "top5": 99.0, "top1_last_epoch": 80.0, "top5_last_epoch": 95.0, "top1_grid_best": 91.0}
    write_result(run, "linear", TRAINED, metrics, data=_data(tmp_path, 40, 20))
    loaded = load_run(run)
    table = next(table for table in measured_tables(loaded) if table.rows[0][0] == "linear")
    assert [row[1:] for row in table.rows] == [
        ["top-1", "80.0"],
        ["top-5", "95.0"],
        ["top-1, best epoch †", "90.0"],
        ["top-5, best epoch †", "99.0"],
        ["top-1, best of grid †", "91.0"],
    ]
    assert other_settings(loaded)[0] == "† chosen on the validation images themselves, which flatters it."
    tile = run_page(loaded).partition('<ul class="tiles">')[2].partition("</ul>")[0]
    assert "<b>80.0<small> %</small></b> <span>linear, top-1</span>" in tile
    assert "best epoch, which flatters, 90.0" in tile


def test_what_differs_from_the_published_run_is_said(run: Path, tmp_path: Path) -> None:
    write_result(run, "knn", TRAINED, {"top1_20_neighbours": 60.0}, data=_data(tmp_path, 1_281_167, 50_000),
                 num_classes=1000)  # fmt: skip
    _, notes = _published(load_run(run))
    assert f"The pretraining of {run} is not the published one (data.image_size: 224 -> 32" in notes[0]
    assert "model.encoder: 'resnet50' -> 'resnet10-narrow'" in notes[0]
