"""The benchmark of checkpoints runs at a small size and leaves nothing behind."""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console

from benchmarks import checkpoint as benchmark


def test_it_measures(tmp_path: Path) -> None:
    written = io.StringIO()
    options = benchmark.Checkpoint(tmp_path, "resnet10-narrow", "16-16", images=2, rounds=1)
    found = benchmark.ratios(options, Console(file=written, width=120))
    assert [ratio.target for ratio in found] == [1.0, 1.0]
    assert "save on the spot" in written.getvalue()
    assert list(tmp_path.iterdir()) == []
