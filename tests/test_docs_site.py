"""The docs as a site: built without warnings and outside addresses; blocks marked as runnable are run."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from docs import run_blocks
from tests.test_architecture import ROOT

FETCHED = re.compile(r"<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)=[\"']?(?:https?:)?//")


def _build(config: Path, site: Path) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--strict",
        "--config-file",
        str(config),
        "--site-dir",
        str(site),
    ]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=250)


@pytest.mark.slow
def test_every_page_is_on_the_site_which_fetches_nothing_from_elsewhere(tmp_path: Path) -> None:
    done = _build(ROOT / "mkdocs.yml", tmp_path / "site")
    assert done.returncode == 0, done.stdout + done.stderr
    pages = {path.stem for path in (ROOT / "docs").glob("*.md")}
    assert pages | {"404"} == {path.stem for path in (tmp_path / "site").glob("*.html")}
    first = (tmp_path / "site" / "index.html").read_text()
    assert all(f'href="{page}.html"' in first for page in pages - {"index"})
    assert "embed_beton" in (tmp_path / "site" / "api.html").read_text()  # from the docstrings
    assert not [path for path in (tmp_path / "site").glob("*.html") if FETCHED.search(path.read_text())]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "said"),
    [("[a](nowhere.md)", "nowhere.md"), ("[a](#nowhere)", "no such anchor"), ("::: vicreg.nothing", "vicreg.nothing")],
)
def test_what_leads_nowhere_fails_the_build(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text(f"# First\n\n{text}\n")
    (tmp_path / "docs" / "navigation.py").symlink_to(ROOT / "docs" / "navigation.py")
    (tmp_path / "mkdocs.yml").write_text((ROOT / "mkdocs.yml").read_text().replace("paths: [.]", f"paths: [{ROOT}]"))
    done = _build(tmp_path / "mkdocs.yml", tmp_path / "site")
    assert done.returncode == 1
    assert said in done.stdout + done.stderr


def test_marked_blocks_are_found_and_one_that_fails_ends_it(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "<!-- runs -->\n```\nset -u\necho one > file\n```\n\n```\nexit 3\n```\n\n"
        '<!-- runs -->\n```python\nassert open("file").read() == "one\\n"\nimport vicreg\n```\n'
    )
    assert [language for language, _ in run_blocks.marked_blocks(page)] == ["", "python"]
    (tmp_path / "here").mkdir()
    run_blocks.run_page(page, tmp_path / "here")
    page.write_text("<!-- runs -->\n```\nfalse | true\ntouch more\n```\n")
    (tmp_path / "there").mkdir()
    with pytest.raises(subprocess.CalledProcessError):
        run_blocks.run_page(page, tmp_path / "there")
    assert not (tmp_path / "there" / "more").exists()


def test_the_first_page_s_commands_are_marked() -> None:
    """All but set-up and the board, which goes on until it is stopped."""
    text = (ROOT / "docs" / "index.md").read_text()
    marked = "".join(block for _, block in run_blocks.marked_blocks(ROOT / "docs" / "index.md"))
    commands = re.findall(r"^python [^\n\\]+", text, re.MULTILINE)
    assert [command for command in commands if command not in marked] == ["python jobs/board.py runs/"]
    assert len(commands) >= 5
