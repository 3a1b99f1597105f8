"""What several tests share: betons of the handwritten digits, written once by the command itself."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
os.environ["VICREG_CLUSTER"] = "local"  # whatever is installed here; the tests of SLURM name their cluster


@pytest.fixture(scope="session")
def digits_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with train.beton (1,437 digits) and val.beton (360)."""
    folder = tmp_path_factory.mktemp("digits")
    for split in ("train", "val"):
        command = [sys.executable, "dataprep/write_ffcv.py", "digits", "--out", str(folder), "--split", split]
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return folder
