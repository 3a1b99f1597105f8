"""The page of a search: each query with the images nearest to it, in one file that opens without a network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageOps

from jobs.reporting import page
from jobs.reporting.page import Section, escape
from jobs.reporting.pictures import hidden_sheet, tile
from vicreg.evals.gallery import contact_sheet

PICTURE_PX = 128
SHEET = "search-sheet"
COLUMNS = 16  # of the sheet, which no reader sees


@dataclass(frozen=True)
class Hit:
    """An image that was found."""

    name: str
    label: str
    """Empty where there is none."""
    cosine: float
    picture: Image.Image | None
    """None where it cannot be shown any more."""


@dataclass(frozen=True)
class Query:
    """An image that was asked for, and the nearest, nearest first."""

    name: str
    picture: Image.Image | None
    hits: Sequence[Hit]


def search_page(title: str, lead: str, queries: Sequence[Query]) -> str:
    """The whole page; every name comes from outside."""
    pictures = [_square(shown) for query in queries for shown in (query.picture, *(hit.picture for hit in query.hits))]
    sheet = contact_sheet(pictures, COLUMNS)
    sections, number = [], 0
    for place, query in enumerate(queries, 1):
        tiles = [tile(sheet, SHEET, number, f"query {query.name}", ("query",), "query")]
        for hit in query.hits:
            number += 1
            said = ", ".join([hit.name, *([f"class {hit.label}"] if hit.label else []), f"cosine {hit.cosine:.3f}"])
            lines = (hit.label or _short(hit.name), f"{hit.cosine:.3f}", _short(hit.name) if hit.label else "")
            tiles.append(f'<div title="{escape(hit.name)}">{tile(sheet, SHEET, number, said, lines)}</div>')
        number += 1
        sections.append(Section(f"query-{place}", query.name, f'<div class="found">{"".join(tiles)}</div>'))
    first = Section(sections[0].name, sections[0].title, hidden_sheet(sheet, SHEET) + sections[0].body)
    return page.page(title, f'<p class="lead">{escape(lead)}</p>', [first, *sections[1:]])


def _short(name: str) -> str:
    """A file's own name."""
    return name.rstrip("/").rpartition("/")[2] or name


def _square(picture: Image.Image | None) -> Image.Image:
    """The middle square; grey where there is no picture."""
    if picture is None:
        return Image.new("RGB", (PICTURE_PX, PICTURE_PX), (128, 128, 128))
    return ImageOps.fit(picture.convert("RGB"), (PICTURE_PX, PICTURE_PX), Image.Resampling.BICUBIC)
