"""200,000 images in less than 1 GiB of memory, all processes together."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dataprep.beton.contract import open_beton
from tests.dataprep.raw_images import encoded, picture
from tests.dataprep.test_failures import children

ROOT = Path(__file__).parents[2]
NUM_IMAGES = 200_000


def resident_bytes(pid: int) -> int:
    """Resident memory of a process and all below it; pages that they share are counted in each."""
    total, waiting = 0, [pid]
    while waiting:
        process = waiting.pop()
        try:
            total += int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
            waiting += children(process)
        except (FileNotFoundError, ProcessLookupError):
            continue
    return total


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_memory_is_that_of_the_metadata(tmp_path: Path) -> None:
    contents = [encoded(picture(seed, 8, 8)) for seed in range(10)]
    for number in range(NUM_IMAGES):
        folder = tmp_path / "raw" / f"class{number % 100:03d}"
        if number < 100:
            folder.mkdir(parents=True)
        (folder / f"image_{number:08d}.jpg").write_bytes(contents[number % 10])
    command = [sys.executable, "dataprep/write_ffcv.py", "folder", "--root", str(tmp_path / "raw")]
    command += ["--out", str(tmp_path / "out"), "--num-workers", "4", "--shuffle-seed", "1"]
    process = subprocess.Popen(command, cwd=ROOT)
    peak = 0
    while process.poll() is None:
        peak = max(peak, resident_bytes(process.pid))
        time.sleep(0.05)
    assert process.returncode == 0
    assert open_beton(tmp_path / "out" / "train.beton").num_samples == NUM_IMAGES
    print(f"peak: {peak / 2**20:.0f} MiB")
    assert peak < 2**30
