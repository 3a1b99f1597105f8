"""libgomp, once torch has loaded it, says itself how long its threads wait."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from border.waiting_threads import SPINS
from tests.test_architecture import ROOT


def _spins(code: str, **chosen: str) -> list[str]:
    """What libgomp says in a process of its own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    environment = {**kept, **chosen, "OMP_DISPLAY_ENV": "verbose", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=True)
    return re.findall(r"GOMP_SPINCOUNT = '(\w+)'", done.stderr)


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [({}, SPINS), ({"GOMP_SPINCOUNT": "77"}, "77"), ({"OMP_WAIT_POLICY": "passive"}, "0")],
)
def test_a_command_sets_it_before_torch_and_leaves_what_is_chosen(chosen: dict[str, str], expected: str) -> None:
    code = """
import sys
from border.terminal import typed

def main(arguments):
    assert "torch" not in sys.modules
    import torch
    return 0

typed(main)
"""
    assert set(_spins(code, **chosen)) == {expected}
