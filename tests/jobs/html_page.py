"""What must hold of every page, checked by parsing it: nesting, ids, headings, captions, descriptions, no network."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from itertools import pairwise

VOID = {"meta", "link", "br", "img", "input", "hr"}
LEAVES_OF_SVG = {"g", "path", "use", "rect", "circle", "image"}


class Page(HTMLParser):
    """A parsed page; AssertionError where it breaks a rule."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.text = text
        self.open: list[str] = []
        self.ids: list[str] = []
        self.references: list[str] = []
        self.headings: list[tuple[int, str]] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.captions = 0
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"
        self._check()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._look_at(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in LEAVES_OF_SVG, f"<{tag}/> is no end in HTML"
        self._look_at(tag, attrs)

    def _look_at(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        assert len(values) == len(attrs), f"<{tag}> says an attribute twice"
        self.tags.append((tag, values))
        if "id" in values:
            self.ids.append(values["id"])
        if re.fullmatch(r"h[1-6]", tag):
            self.headings.append((int(tag[1]), ""))
        self.captions += tag == "caption"
        assert not any(name.startswith("on") for name in values), f"<{tag}> runs code"
        for name in ("src", "href", "data", "action"):
            if name in values:
                assert values[name].startswith(("#", "data:image/jpeg;base64,")), f"<{tag} {name}={values[name][:60]}>"
                if values[name].startswith("#"):
                    self.references.append(values[name][1:])
        self.references += [found for value in values.values() for found in re.findall(r"url\(#([^)]*)\)", value)]

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> ends nothing"
        assert self.open[-1] == tag, f"</{tag}> ends <{self.open[-1]}>"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if self.open and re.fullmatch(r"h[1-6]", self.open[-1]):
            level, text = self.headings[-1]
            self.headings[-1] = level, text + data
        if self.open and self.open[-1] not in ("style", "script"):
            self.words.append(data)

    def _check(self) -> None:
        assert self.text.startswith("<!DOCTYPE html>")
        names = [tag for tag, _ in self.tags]
        assert not {"script", "link", "iframe", "img", "object", "base", "form"} & set(names)
        assert len(set(self.ids)) == len(self.ids), "an id stands twice"
        missing = set(self.references) - set(self.ids)
        assert not missing, f"refers to what is not there: {missing}"
        style = self.text.split("<style>")[1].split("</style>")[0]
        assert "@import" not in style
        assert "url(" not in style
        assert not re.search(r"[:/ ]url\((?!#)", self.text.split("</style>")[1])
        levels = [level for level, _ in self.headings]
        assert levels[0] == 1
        assert levels.count(1) == 1
        assert all(after <= before + 1 for before, after in pairwise(levels)), levels
        assert all(text.strip() for _, text in self.headings)
        assert self.captions == names.count("table")
        assert names.count("figcaption") == names.count("figure")
        for tag, values in self.tags:
            if tag == "th":
                assert values.get("scope") in ("row", "col")
            if values.get("role") == "img":
                assert values.get("aria-label", "").strip(), f"<{tag}> is a picture without a description"
        described = [values for tag, values in self.tags if tag == "div" and values.get("role") == "img"]
        assert len(described) == names.count("figure")

    def said(self) -> str:
        """All text."""
        return " ".join("".join(self.words).split())

    def sections(self) -> list[str]:
        """Titles of the parts."""
        return [text for level, text in self.headings if level == 2]
