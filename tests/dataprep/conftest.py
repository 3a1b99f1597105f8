"""Fixtures of the tests of dataprep."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.dataprep.raw_images import make_tree


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Three classes of six JPEGs."""
    return make_tree(tmp_path / "raw")
