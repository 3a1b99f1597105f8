"""Feature files are read as they were written, to the bit; what is damaged is one sentence that names the file."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from jobs.reporting import feature_file
from jobs.reporting.feature_file import Description, description_path, files_path, is_current, read, write

NAMES = ["a/1.jpg", 'with "quotes", and commas.jpg', " spaces ", "=1+1", "ünïcode\n.jpg", "not-utf-8-\udcff.jpg"]
LABELS = ["a", "b,c", "", "d", "e", "f"]
SHOWN = [*NAMES[:-1], "not-utf-8-\\xff.jpg"]
WHOLE: Description = {
    "encoder_sha256": "0",
    "layer": "",
    "images": "/x",
    "beton": "/x.beton",
    "beton_sha256": "1",
    "num_images": len(NAMES),
    "framed": {"image_size": 32},
}


def _values() -> np.ndarray:
    values = np.random.default_rng(0).normal(size=(len(NAMES), 7)).astype(np.float32)
    values[0] = [0.1, -0.0, 1e-38, 3.4e38, 1 / 3, 16777217, -1e-7]
    return values


def _write(path: Path, labels: list[str]) -> None:
    write(path, NAMES, labels, 7, iter(np.array_split(_values(), 3)), WHOLE)


@pytest.mark.parametrize("labels", [LABELS, []], ids=["labels", "none"])
@pytest.mark.parametrize("suffix", feature_file.SUFFIXES)
def test_what_is_written_is_read(tmp_path: Path, suffix: str, labels: list[str]) -> None:
    path = tmp_path / "deep" / f"features{suffix}"
    _write(path, labels)
    found = read(path)
    np.testing.assert_array_equal(found.values.view(np.uint32), _values().view(np.uint32))
    assert (found.names, found.labels, found.description) == (SHOWN, labels, WHOLE)
    assert is_current(path, WHOLE)
    assert not is_current(path, {**WHOLE, "layer": "layer3"})
    description_path(path).unlink()
    assert not is_current(path, WHOLE)


def test_others_read_them(tmp_path: Path) -> None:
    """By the readers that people have: Python's csv, numpy's load."""
    for suffix in (".csv", ".npy"):
        _write(tmp_path / f"features{suffix}", LABELS)
    with (tmp_path / "features.csv").open(newline="", encoding="utf-8") as file:
        head, *rows = csv.reader(file)
    assert head == ["file", "label", *(f"f{number}" for number in range(7))]
    assert [row[0] for row in rows] == SHOWN
    np.testing.assert_array_equal(np.float32([row[2:] for row in rows]), _values())
    np.testing.assert_array_equal(np.load(tmp_path / "features.npy"), _values())
    with files_path(tmp_path / "features.npy").open(newline="", encoding="utf-8") as file:
        assert [row[0] for row in csv.reader(file)] == ["file", *SHOWN]


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _other_table(path: Path) -> None:
    pa.parquet.write_table(pa.table({"file": ["a"], "features": [1.0]}), path)


@pytest.mark.parametrize(
    "damage",
    [_cut, _other_table, lambda path: path.write_bytes(b""), lambda path: path.write_bytes(b"\x93NUMPY\x01\x00junk")],
)
@pytest.mark.parametrize("suffix", feature_file.SUFFIXES)
def test_a_damaged_file_is_named(tmp_path: Path, suffix: str, damage: Callable[[Path], None]) -> None:
    path = tmp_path / f"features{suffix}"
    _write(path, LABELS)
    damage(path)
    with pytest.raises(ValueError, match=f"features{suffix}.*(damaged|names and values)") as raised:
        read(path)
    assert "\n" not in str(raised.value)


def test_a_stopped_write_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "features.parquet"
    _write(path, LABELS)

    def stopped() -> np.ndarray:
        yield _values()[:2]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(path, NAMES, LABELS, 7, stopped(), WHOLE)
    assert [file.name for file in tmp_path.iterdir()] == ["features.parquet"]  # the one from before, not described
    assert not is_current(path, WHOLE)
