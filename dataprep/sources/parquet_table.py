"""A parquet file, or a folder of them, with an image column: bytes, or a record of bytes and path as Hugging Face's.

Only the columns that are needed are read; the images of one row group are in memory at a time. Labels come from the
column `label` (numbers, with names where the file's metadata has them, or texts); without one there are none.
"""

from __future__ import annotations

import bisect
import functools
import itertools
import json
from pathlib import Path
from typing import Any

from dataprep.sources.own_images import Listing, as_source
from dataprep.writing.raw_source import Source, SourceError

SUFFIX = ".parquet"
_IMAGES = ("image", "img", "jpg", "png", "webp", "bytes", "content")
_LABELS = ("label", "labels", "class", "cls", "target", "fine_label")


class _Images:
    """Rows of the image column of several files, fetched by row group."""

    def __init__(self, files: list[Any], names: list[str], column: str) -> None:
        self._column, self.names = column, names
        self._groups = [(file, group) for file in files for group in range(file.num_row_groups)]
        sizes = [file.metadata.row_group(group).num_rows for file, group in self._groups]
        self._starts = [0, *itertools.accumulate(sizes)]
        self._group = functools.lru_cache(maxsize=2)(self._read)

    def _read(self, group: int) -> Any:
        file, number = self._groups[group]
        return file.read_row_group(number, columns=[self._column]).column(0)

    def content(self, row: int) -> bytes:
        """An image's bytes; none where the table has none, which the writer rejects by name."""
        group = bisect.bisect_right(self._starts, row) - 1
        value = self._group(group)[row - self._starts[group]].as_py()
        value = value.get("bytes") if isinstance(value, dict) else value
        return value if isinstance(value, bytes) else b""


def open_table(root: Path, paths: list[Path], split: str = "") -> Source:
    """The rows of the files, one file after the other; SourceError names file, column and cure."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise SourceError(f"{root} is parquet, which needs a package; install it with  pip install pyarrow") from error
    files = []
    for path in paths:
        try:
            files.append(pq.ParquetFile(path))
        except (pa.ArrowException, OSError) as error:
            raise SourceError(f"{path} cannot be read as parquet ({error}); get it again") from error
        if files[-1].schema_arrow.names != files[0].schema_arrow.names:
            raise SourceError(f"{path} has other columns than {paths[0]}; give tables of one kind")
    schema = files[0].schema_arrow
    column = next((name for name in _IMAGES if name in schema.names and _holds_bytes(pa, schema.field(name))), None)
    if column is None:
        found = ", ".join(f"{field.name} ({field.type})" for field in schema)
        raise SourceError(f"{paths[0]} has no image column among {found}; expected bytes, named one of {_IMAGES}")
    names = [f"{path.name}/{row}" for path, file in zip(paths, files, strict=True) for row in range(_num_rows(file))]
    labels = _labels(files, schema)
    images = _Images(files, names, column)
    return as_source("parquet", root, split, Listing(names, labels), images.content)


def _num_rows(file: Any) -> int:
    return int(file.metadata.num_rows)


def _holds_bytes(pa: Any, field: Any) -> bool:
    def is_bytes(kind: Any) -> bool:
        return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))

    kind = field.type
    if pa.types.is_struct(kind):
        place = kind.get_field_index("bytes")
        return place >= 0 and is_bytes(kind.field(place).type)
    return is_bytes(kind)


def _labels(files: list[Any], schema: Any) -> list[str] | None:
    """A text for each row; None where there is no column of labels."""
    column = next((name for name in _LABELS if name in schema.names), None)
    if column is None:
        return None
    values = [value for file in files for value in file.read(columns=[column]).column(0).to_pylist()]
    missing = next((row for row, value in enumerate(values) if value is None), None)
    if missing is not None:
        raise SourceError(f"row {missing:,} has no {column}; give every row one, or leave the column out")
    names = _class_names(schema, column)
    if names and all(isinstance(value, int) and 0 <= value < len(names) for value in values):
        return [names[value] for value in values]
    return [str(value) for value in values]


def _class_names(schema: Any, column: str) -> list[str]:
    """What Hugging Face's metadata call the numbers of a column; none where they do not."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        names = features[column]["names"]
    except (KeyError, TypeError, ValueError):
        return []
    is_list = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return names if is_list and len(set(names)) == len(names) else []
