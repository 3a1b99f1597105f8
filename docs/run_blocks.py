"""Runs the pages' code blocks that are marked as runnable, as a reader would: those of a page in order, in one folder.

A line `<!-- runs -->` above a block marks it; it is seen neither on the site nor elsewhere. A block that fails ends it.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MARKED = re.compile(r"^<!-- runs -->\n```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def marked_blocks(page: Path) -> Iterator[tuple[str, str]]:
    """Language (empty: shell) and text of each marked block."""
    yield from MARKED.findall(page.read_text(encoding="utf-8"))


def run_page(page: Path, folder: Path) -> None:
    """Run the blocks of a page in a folder where the checkout's files are; CalledProcessError for one that fails."""
    for name in sorted(path.name for path in ROOT.iterdir() if path.name not in ("data", "runs", "build")):
        (folder / name).symlink_to(ROOT / name)
    binaries = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": binaries, "PYTHONPATH": str(ROOT), "VICREG_CLUSTER": "local"}
    for language, text in marked_blocks(page):
        print(f"{page.name}:\n{text}", flush=True)
        command = [sys.executable, "-c", text] if language == "python" else ["bash", "-euo", "pipefail", "-c", text]
        subprocess.run(command, cwd=folder, env=environment, check=True)


def main() -> int:
    """All pages; returns the exit code, 1 where a block fails."""
    for page in sorted(Path(__file__).parent.glob("*.md")):
        with tempfile.TemporaryDirectory() as folder:
            try:
                run_page(page, Path(folder))
            except subprocess.CalledProcessError as error:
                print(f"error: a block of {page} ended with exit code {error.returncode}", file=sys.stderr)
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
