"""Whoever reads a command's output may leave: nothing is said of it, by any command."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
QUICK = ["jobs/status.py", *(f"slurm/devcluster/{name}.py" for name in ("up", "down", "status"))]
WITH_TORCH = [f"jobs/{name}.py" for name in ("report", "eval_all", "pretrain", "import_encoder", "export_encoder")]


@pytest.mark.parametrize("lines", [0, 1])
@pytest.mark.parametrize("command", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in WITH_TORCH)])
def test_a_reader_that_has_seen_enough_ends_the_command_quietly(command: str, lines: int) -> None:
    process = subprocess.Popen(
        [sys.executable, command, "--help"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    for _ in range(lines):
        process.stdout.readline()
    process.stdout.close()
    process.stdout = None
    _, said = process.communicate(timeout=100)
    assert said == ""
    assert process.returncode in (0, 1, 141)
