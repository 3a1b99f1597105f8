"""The board in a real browser: its script runs under its own policy, fills the page, and shows names as text."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.board import write_runs
from tests.conftest import ROOT

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or ""
HOSTILE = "<img src=x onerror=alert(1)>"

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not CHROMIUM, reason="no Chromium on this machine")]


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """Of a board of four runs."""
    write_runs(tmp_path / "runs" / "sweep", 3, 250)
    write_runs(tmp_path / "runs" / HOSTILE, 1, 250)
    command = [sys.executable, "jobs/board.py", str(tmp_path / "runs")]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        yield process.stdout.readline().split()[-1]
        process.terminate()


def test_the_page_is_filled_and_every_name_is_text(address: str, tmp_path: Path) -> None:
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    options += ["--window-size=390,900", "--virtual-time-budget=8000", "--enable-logging=stderr", "--dump-dom"]
    done = subprocess.run([CHROMIUM, *options, address], capture_output=True, text=True, timeout=250)
    page = done.stdout
    assert re.search(r'id="summary"[^>]*>4 runs: 4 finished\.', page), done.stderr
    body = page.split("<tbody>")[1].split("</tbody>")[0]
    assert body.count('<td class="name">') == 4
    assert "&lt;img src=x onerror=alert(1)&gt;" in body
    assert "<img" not in page.split("<script")[0]
    assert len(re.findall(r"<path [^>]*d=\"M[\d. ]+L", page.split("<script")[0])) == 3 * 4  # curves of what is logged
    assert "Content Security Policy" not in done.stderr
    assert "Uncaught" not in done.stderr
