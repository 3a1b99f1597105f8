"""README and docs: links lead somewhere, and what they copy from the code's own data is true."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.test_architecture import FLOORS, ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
LINK = re.compile(r"\]\(([^)\s]+)\)")
FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def _anchors(page: Path) -> set[str]:
    """What GitHub calls a page's headings."""
    titles = re.findall(r"^#+ (.+)$", FENCED.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def _broken(page: Path) -> list[str]:
    found = []
    for link in LINK.findall(FENCED.sub("", page.read_text())):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if not target.exists() or (anchor and anchor not in _anchors(target)):
            found.append(link)
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    assert not _broken(page)


def test_a_link_to_nowhere_is_seen(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# A `title`, so\n[a](#a-title-so) [b](page.md) [c](#other) [d](missing.md) [e](https://example.org)"
    )
    assert _broken(page) == ["#other", "missing.md"]


def test_the_readme_links_every_page() -> None:
    linked = {link.split("#")[0] for link in LINK.findall((ROOT / "README.md").read_text())}
    assert {page.relative_to(ROOT).as_posix() for page in PAGES[1:]} - {"CHANGELOG.md"} <= linked


def test_the_wings_stand_on_the_floors_of_the_architecture_page() -> None:
    block = (ROOT / "docs" / "architecture.md").read_text().split("<!-- floors -->")[1].split("```")[1]
    shown = [set(line.split(", ")) for line in block.splitlines() if line]
    wings = [{room for room in floor if (ROOT / "vicreg" / room).is_dir()} for floor in FLOORS["vicreg"]]
    assert shown == [floor for floor in wings if floor]


def test_the_readme_has_the_neighbours_that_the_page_of_methods_has() -> None:
    table = (ROOT / "docs" / "methods.md").read_text().split("### What is learned in the same time")[1].split("###")[0]
    page = dict(re.findall(r"^\| ([^|]+) \| [\d.–]+ \| ([\d.]+) \|", table, re.MULTILINE))
    text = (ROOT / "README.md").read_text()
    readme = re.findall(
        r"^\| ([^|]+) \| `[\w-]+` \| [\d.–]+ \| ([\d.]+)(?: \(random: [\d.]+\))? \|$", text, re.MULTILINE
    )
    assert len(readme) == 14
    for name, neighbours in readme:
        assert page[name.replace(" (LeJEPA)", "").removesuffix(" Aug")] == neighbours, name
    assert f"random weights {page['random weights']}, raw pixels {page['raw pixels']}" in text.replace("\n", " ")
