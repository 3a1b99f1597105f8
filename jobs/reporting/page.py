"""HTML as the reports need it: one page without a network, its elements, and a document's blocks in it.

Every text that comes from outside goes through `escape`; what these functions return is HTML.
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from border.text import visible
from jobs.reporting.document import Block, Code, Heading, Table, Text

STYLE = Path(__file__).with_name("report.css")


@dataclass(frozen=True)
class Section:
    """A part of a page; `body` is HTML."""

    name: str
    """Its id."""
    title: str
    body: str


def escape(text: object, kept: str = "") -> str:
    """Any text as HTML; what is not seen (control characters, bytes of odd file names) is spelled out."""
    return html.escape(visible(text, kept))


def page(title: str, lead: str, sections: Sequence[Section]) -> str:
    """A whole page; `lead` is HTML below the title."""
    links = "".join(f'<li><a href="#{section.name}">{escape(section.title)}</a></li>' for section in sections)
    parts = "\n".join(
        f'<section id="{section.name}">\n<h2>{escape(section.title)}</h2>\n{section.body}\n</section>'
        for section in sections
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{STYLE.read_text(encoding='utf-8')}</style>\n</head>\n<body>\n"
        f'<header>\n<h1>{escape(title)}</h1>\n{lead}\n<nav aria-label="Contents"><ul>{links}</ul></nav>\n</header>\n'
        f"<main>\n{parts}\n</main>\n</body>\n</html>\n"
    )


def blocks(document: Sequence[Block]) -> str:
    """A document's blocks; its headings are those of subsections."""
    parts: list[str] = []
    for block in document:
        if isinstance(block, Table):
            parts.append(table(block))
        elif isinstance(block, Heading):
            parts.append(f"<h3>{escape(block.text)}</h3>")
        elif isinstance(block, Code):
            parts.append(f"<pre><code>{escape(block.text)}</code></pre>")
        else:
            assert isinstance(block, Text)
            parts.append(f"<p>{escape(block.text)}</p>")
    return "\n".join(parts)


def table(content: Table) -> str:
    """A table that scrolls sideways on its own where the page is narrow; columns of numbers are set to the right."""
    numeric = [column for column in range(len(content.headers)) if _is_numeric(content, column)]
    headers = "".join(
        f'<th scope="col"{_kind(column in numeric)}>{escape(header)}</th>'
        for column, header in enumerate(content.headers)
    )
    rows: list[str] = []
    for row, texts in enumerate(content.rows):
        cells: list[str] = []
        for column, text in enumerate(texts):
            shown = f"<strong>{escape(text)}</strong>" if (row, column) in content.best else escape(text)
            is_header = column < content.num_names and text
            opened, closed = ('<th scope="row"', "</th>") if is_header else ("<td", "</td>")
            cells.append(f"{opened}{_kind(column in numeric)}>{shown}{closed}")
        own = ' class="own"' if row in content.own else ""
        rows.append(f"<tr{own}>{''.join(cells)}</tr>")
    title = escape(content.title)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{title}"><table>\n<caption>{title}</caption>\n'
        f"<thead><tr>{headers}</tr></thead>\n<tbody>\n" + "\n".join(rows) + "\n</tbody></table></div>"
    )


def _is_numeric(content: Table, column: int) -> bool:
    """Whether a column holds numbers, with standard deviations and dashes, and nothing else."""
    return column >= content.num_names and all(re.fullmatch(r"[\d.,e+±– -]+", cells[column]) for cells in content.rows)


def _kind(is_number: bool) -> str:
    return ' class="number"' if is_number else ""


def definitions(pairs: Sequence[tuple[str, str]]) -> str:
    """Names and what they mean, as plain text."""
    return "<dl>" + "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in pairs) + "</dl>"


def figure(drawing: str, title: str, explanation: str, description: str, kind: str = "chart") -> str:
    """A drawing (SVG or other HTML) with its caption; `description` is what a reader without eyes is told."""
    return (
        f'<figure class="{kind}"><figcaption><b>{escape(title)}</b> {escape(explanation)}</figcaption>\n'
        f'<div role="img" aria-label="{escape(description)}">{drawing}</div></figure>'
    )


def legend(entries: Sequence[tuple[str, str]]) -> str:
    """What colours and dashes mean: pairs of a key (HTML) and a text."""
    items = "".join(f"<li>{key}{escape(text)}</li>" for key, text in entries)
    return f'<ul class="legend">{items}</ul>'


def folded(summary: str, body: str) -> str:
    """HTML that opens on a click."""
    return f"<details><summary>{escape(summary)}</summary>\n{body}\n</details>"
