"""The notebook runs from its first cell to its last, and what it says of its numbers is so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.jobs.run_folders import digits_config, write_run
from tests.test_architecture import ROOT


def test_the_notebook_runs(tmp_path: Path, digits_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder as `make demo` leaves it, but for the training."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "digits").symlink_to(digits_folder)
    write_run(tmp_path / "runs" / "digits", digits_config(digits_folder), "digits")
    names: dict[str, Any] = {}
    cells = json.loads((ROOT / "docs" / "features.ipynb").read_text())["cells"]
    for number, cell in enumerate(cell for cell in cells if cell["cell_type"] == "code"):
        exec(compile("".join(cell["source"]), f"cell {number}", "exec"), names)
    assert names["features"].shape == (360, 128)
    assert names["inner"].shape == (360, 64)
    np.testing.assert_array_equal(names["one"][0], names["one"][1])
    np.testing.assert_allclose(names["one"][2], names["features"][0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(names["by_hand"], names["features"][:4], rtol=1e-4, atol=1e-5)
    assert names["accuracy"] > 0.5  # random weights; pixels get 0.98
