"""A list of image files with, if there are any, their labels and splits: CSV, or TSV.

Columns `path`, `label`, `split` in any order below a line with their names (`file`, `image`, `class` and the like do as
well), or without such a line in that order. Paths count from the folder of the list, unless they begin with a slash.
"""

from __future__ import annotations

import csv
import os
from dataclasses import dataclass
from pathlib import Path

from dataprep.sources.own_images import Listing, as_source
from dataprep.writing.raw_source import Source, SourceError
from dataprep.writing.sample_encoding import FilePart

SUFFIXES = (".csv", ".tsv")
_NAMES = {
    "path": ("path", "file", "filename", "file_name", "filepath", "image", "image_path"),
    "label": ("label", "class", "class_name", "category", "target"),
    "split": ("split", "set", "subset", "fold"),
}
_CSV_DELIMITERS = ",;\t"


@dataclass(frozen=True)
class _Columns:
    """Places of the columns in a row; -1 where there is none."""

    path: int
    label: int
    split: int


def open_splits(path: Path) -> list[Source]:
    """One source for each split that the list names, in the order of their names; SourceError names line and cure."""
    rows = table_rows(path)
    if rows:
        columns, rows = _read_columns(path, rows)
    if not rows:
        raise SourceError(f"{path} lists no files; expected a line with a path for each")
    base, listings = path.parent, dict[str, Listing]()
    for number, row in rows:
        width = 1 + max(columns.path, columns.label, columns.split)
        if len(row) < width or not row[columns.path].strip():
            raise SourceError(f"{path}: line {number} is {','.join(row)[:80]!r}, expected {width} columns with a path")
        split = row[columns.split].strip() if columns.split >= 0 else ""
        listing = listings.setdefault(split, Listing([], [] if columns.label >= 0 else None))
        listing.paths.append(row[columns.path].strip())
        if listing.labels is not None:
            listing.labels.append(row[columns.label].strip())
            if not listing.labels[-1]:
                raise SourceError(f"{path}: line {number} has no label; give every file one, or none")
    if not any(os.path.lexists(base / file) for listing in listings.values() for file in listing.paths[:1000]):
        first = next(iter(listings.values())).paths[0]
        raise SourceError(f"{path} lists {first!r}, but there is no {base / first}; paths count from the list's folder")
    return [_source(path, split, listings) for split in sorted(listings)]


def _source(path: Path, split: str, listings: dict[str, Listing]) -> Source:
    listing, base = listings[split], str(path.parent.resolve())
    classes = {label for other in listings.values() for label in other.labels or ()}
    return as_source(
        "list",
        path,
        split,
        listing,
        lambda sample: FilePart(os.path.join(base, listing.paths[sample]), listed_below=base),
        classes,
    )


def table_rows(path: Path) -> list[tuple[int, list[str]]]:
    """Line numbers and fields of what is not empty."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise SourceError(f"{path} is not UTF-8 ({error.reason} at byte {error.start:,}); save it as UTF-8") from error
    delimiter = "\t" if path.suffix == ".tsv" else max(_CSV_DELIMITERS, key=text.partition("\n")[0].count)
    try:
        reader = csv.reader(text.splitlines(keepends=True), delimiter=delimiter, strict=True)
        return [(reader.line_num, row) for row in reader if any(field.strip() for field in row)]
    except csv.Error as error:
        raise SourceError(f"{path}: line {reader.line_num} is no line of a table ({error}); quote it") from error


def _read_columns(path: Path, rows: list[tuple[int, list[str]]]) -> tuple[_Columns, list[tuple[int, list[str]]]]:
    """What the columns are, and the rows without the line that names them."""
    head = [field.strip().lower() for field in rows[0][1]]
    places = {
        column: next((place for place, name in enumerate(head) if name in names), -1)
        for column, names in _NAMES.items()
    }
    if places["path"] >= 0 and not os.path.lexists(path.parent / rows[0][1][places["path"]]):
        return _Columns(**places), rows[1:]
    width = len(head)
    if width > len(_NAMES):
        raise SourceError(f"{path} has {width} columns without names, allowed: path, label, split, or a line of names")
    return _Columns(0, 1 if width > 1 else -1, 2 if width > 2 else -1), rows
