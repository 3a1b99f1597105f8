"""Reading a subset: what was chosen, or a refusal that says how to make it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dataprep.beton.contract import BetonError
from dataprep.beton.subset import read_subset, subset_path
from dataprep.sources import digits
from dataprep.writing.subset_choice import write_drawn
from dataprep.writing.write_plan import WritePlan
from dataprep.writing.writer import write_beton

ROOT = Path(__file__).parents[3]


@pytest.fixture
def beton(tmp_path: Path) -> Path:
    path = tmp_path / "train.beton"
    write_beton(digits.open_split("val"), path, WritePlan("raw"), num_workers=0)
    return path


def test_read_as_written(beton: Path) -> None:
    path, size = write_drawn(beton, "tenth", 0.1, 0, overwrite=False)
    assert path == beton.with_name("train.tenth.json")
    found = read_subset(beton, "tenth")
    assert found.dtype == np.int64
    assert len(found) == size == 36
    assert (np.diff(found) > 0).all()
    document = json.loads(path.read_text())
    assert document["beton"] == "train.beton"
    assert document["num_samples"] == 360
    assert document["made_from"] == {"fraction": 0.1, "seed": 0}
    assert document["indices"] == found.tolist()


def test_a_missing_one_says_how_to_make_it(beton: Path) -> None:
    with pytest.raises(BetonError) as missing:
        read_subset(beton, "simclr-1percent")
    command = f"python dataprep/write_ffcv.py subset {beton} --name simclr-1percent --list 1percent.txt"
    assert str(missing.value).endswith(command)
    with pytest.raises(BetonError) as missing:
        read_subset(beton, "mine")
    words = str(missing.value).partition("make it: python ")[2].split()
    subprocess.run([sys.executable, *words], cwd=ROOT, check=True, capture_output=True)
    assert len(read_subset(beton, "mine")) == 10  # 1 % of 360, at least one of each class


@pytest.mark.parametrize("plan", [WritePlan("raw", limit=359), WritePlan("raw", shuffle_seed=1)])
def test_one_of_another_beton_is_refused(beton: Path, plan: WritePlan) -> None:
    write_drawn(beton, "tenth", 0.1, 0, overwrite=False)
    write_beton(digits.open_split("val"), beton, plan, num_workers=0)
    expected = "360 samples, .* has 359" if plan.limit else "of other samples or of another order"
    with pytest.raises(BetonError, match=rf"{expected}.*make it again: .*--name tenth.*--overwrite"):
        read_subset(beton, "tenth")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 2}, "schema is 2, this version reads 1"),
        ({"indices": [3, 360]}, "indices go from 3 to 360, allowed: 0 to 359"),
        ({"indices": [-1, 3]}, "indices go from -1 to 3"),
        ({"indices": [3, 3]}, "must be ascending integers"),
        ({"indices": []}, "at least one"),
        ({"indices": [0.5]}, "must be ascending integers"),
        ({"indices": [[1, 2], [3]]}, "damaged"),
        ({"indices": "all"}, "must be ascending integers"),
    ],
)
def test_damaged_ones_are_refused(beton: Path, change: dict[str, object], message: str) -> None:
    path, _ = write_drawn(beton, "tenth", 0.1, 0, overwrite=False)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(BetonError, match=message):
        read_subset(beton, "tenth")


def test_one_that_is_cut_is_refused(beton: Path) -> None:
    path, _ = write_drawn(beton, "tenth", 0.1, 0, overwrite=False)
    for text in (path.read_text()[:90], "", "[1, 2]", "{}", "7"):
        path.write_text(text)
        with pytest.raises(BetonError, match="damaged"):
            read_subset(beton, "tenth")


@pytest.mark.parametrize("name", ["beton", "", "../x", "a b", "a.b"])
def test_names_are_checked(beton: Path, name: str) -> None:
    with pytest.raises(ValueError, match="allowed: letters, digits, - and _; not beton"):
        subset_path(beton, name)


def test_no_torch_is_imported() -> None:
    code = "import sys, dataprep.beton.subset; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
