"""A command that only says something does not wait for what computes."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.test_architecture import ROOT

SLOW = (
    "torchvision",
    "torch._dynamo",
    "timm",
    "matplotlib",
    "sklearn",
    "scipy",
    "numba",
    "ffcv",
    "onnx",
    "pycocotools",
)
COMMANDS = sorted(path.stem for path in (ROOT / "jobs").glob("*.py") if path.stem != "__init__")


@pytest.mark.parametrize("module", [*(f"jobs.{name}" for name in COMMANDS), "dataprep.write_ffcv"])
def test_a_command_imports_late_what_takes_long(module: str) -> None:
    code = f"import {module}, sys; print(*(name for name in {SLOW} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


@pytest.mark.parametrize("module", ["dataprep.write_ffcv", "jobs.status"])
def test_writing_and_watching_need_no_torch(module: str) -> None:
    code = f"import {module}, sys; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
