"""Another user of the same machine, who may do what anybody may."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

NOBODY = 65534
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")


def act(program: str, *arguments: object) -> str:
    """What a Python program prints that the other user runs; AssertionError when it fails."""
    command = ["python3", "-I", "-c", program, *map(str, arguments)]
    found = shutil.which(command[0], path="/usr/bin:/usr/local/bin") or sys.executable
    done = subprocess.run(
        command, executable=found, user=NOBODY, group=NOBODY, extra_groups=[], cwd="/", capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def shared_place() -> Iterator[Path]:
    """A folder where everybody may write, as /tmp is; the body of a fixture."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        os.chmod(folder, 0o1777)
        yield Path(folder)
