"""A command that only says something does not wait for what computes."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.test_architecture import ROOT

SLOW = (
    "torch",
    "torchvision",
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
def test_help_and_wrong_options_come_before_what_takes_long(module: str) -> None:
    code = f"""
import contextlib, io, sys, {module} as command
for words, expected in ((["--help"], 0), (["--no-such-option"], 2)):
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            command.main(words)
    except SystemExit as left:
        assert left.code == expected, (words, left.code)
    else:
        raise AssertionError(words)
print(*(name for name in {SLOW} if name in sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout.split()) == (0, []), done.stderr
