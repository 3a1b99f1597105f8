"""Features as a file for others: .parquet, .npy or .csv, and beside it in JSON what they are features of.

Each is written in blocks, so that a million rows never are in memory at once, and appears whole or not at all: first
the features, then what describes them, without which they are not taken for whole.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypedDict

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from numpy.typing import NDArray

from border.documents import read_json
from border.text import visible
from disk.whole_files import write_text, written

SUFFIXES = (".parquet", ".npy", ".csv")
BLOCK_ROWS = 8192
_BYTES_OF_A_NUMBER_IN_CSV = 13
Blocks = Iterator[NDArray[np.float32]]


class Description(TypedDict):
    """What features are of."""

    encoder_sha256: str
    layer: str
    images: str
    beton: str
    beton_sha256: str
    num_images: int
    framed: dict[str, Any]
    """How images reached the encoder, as `DataConfig` has it."""


@dataclass(frozen=True)
class Features:
    """A feature file, read."""

    names: list[str]
    labels: list[str]
    """Empty where there are none."""
    values: NDArray[np.float32]
    """(N, D)."""
    description: Description


def description_path(path: Path) -> Path:
    """Where a feature file's description lies: features.parquet -> features.parquet.json."""
    return path.with_name(path.name + ".json")


def files_path(path: Path) -> Path:
    """Where the names and labels of an .npy file's rows lie: features.npy -> features.files.csv."""
    return path.with_name(path.stem + ".files.csv")


def require_suffix(path: Path) -> None:
    """ValueError for another kind of file."""
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path} ends in {path.suffix or 'nothing'!r}, allowed: {', '.join(SUFFIXES)}")


def is_current(path: Path, description: Description) -> bool:
    """Whether features that are described so are there, whole."""
    try:
        there = described(path)
    except (OSError, ValueError):
        return False
    return path.is_file() and all(there.get(key) == value for key, value in description.items())


def described(path: Path) -> Description:
    """What a feature file says of itself; ValueError or OSError where that is damaged or not there."""
    return read_json(description_path(path), Description, "make the features again with jobs/embed.py")


def write(
    path: Path, names: Sequence[str], labels: Sequence[str], width: int, blocks: Blocks, description: Description
) -> None:
    """Write the blocks, which are `len(names)` rows of `width` together; `labels` is empty where there are none.

    OSError, naming need and cure, where the disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    description_path(path).unlink(missing_ok=True)
    names, labels = [_utf8(name) for name in names], [_utf8(label) for label in labels]
    writer = {".parquet": _write_parquet, ".npy": _write_npy, ".csv": _write_csv}[path.suffix]
    size = _BYTES_OF_A_NUMBER_IN_CSV if path.suffix == ".csv" else 4
    with written(path, len(names) * width * size) as file:
        writer(file, names, labels, width, blocks)
    if path.suffix == ".npy":
        with written(files_path(path), sum(map(len, names))) as file:
            pyarrow.csv.write_csv(_columns(names, labels, slice(None)), file)
    write_text(description_path(path), json.dumps(description, indent=1) + "\n")


def read(path: Path) -> Features:
    """A feature file and its description; ValueError, naming it, for one that is damaged or not made by `write`."""
    require_suffix(path)
    description = described(path)
    try:
        if path.suffix == ".npy":
            values = np.load(path, allow_pickle=False).astype(np.float32, copy=False)
            table = pyarrow.csv.read_csv(files_path(path), convert_options=_as_text())
        elif path.suffix == ".csv":
            table = pyarrow.csv.read_csv(path, convert_options=_as_text())
            columns = [name for name in table.column_names if name not in ("file", "label")]
            values = np.stack([table[name].to_numpy().astype(np.float32) for name in columns], 1)
        else:
            table = pyarrow.parquet.read_table(path)
            width = table.schema.field("features").type.list_size
            values = np.concatenate([part.flatten().to_numpy() for part in table["features"].chunks]).reshape(-1, width)
        labels = table["label"].to_pylist() if "label" in table.column_names else []
        found = Features(table["file"].to_pylist(), labels, values, description)
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError, AttributeError, EOFError) as error:
        raise ValueError(f"{path} is no file of features, or it is damaged: {visible(error)[:200]}") from error
    if values.ndim != 2 or len(values) != len(found.names) or not np.isfinite(values).all():
        raise ValueError(f"{path} has {len(found.names):,} names and values of shape {values.shape}: it is damaged")
    return found


def _as_text() -> Any:
    return pyarrow.csv.ConvertOptions(column_types={"file": pa.string(), "label": pa.string()})


def _columns(names: Sequence[str], labels: Sequence[str], rows: slice) -> pa.Table:
    columns = {"file": pa.array(names[rows], pa.string())}
    return pa.table(columns | ({"label": pa.array(labels[rows], pa.string())} if labels else {}))


def _tables(
    names: Sequence[str],
    labels: Sequence[str],
    blocks: Blocks,
    add: Callable[[pa.Table, NDArray[np.float32]], pa.Table],
) -> Iterator[pa.Table]:
    done = 0
    for values in blocks:
        yield add(_columns(names, labels, slice(done, done + len(values))), values)
        done += len(values)


def _write_parquet(file: BinaryIO, names: Sequence[str], labels: Sequence[str], width: int, blocks: Blocks) -> None:
    kind = pa.list_(pa.float32(), width)

    def add(table: pa.Table, values: NDArray[np.float32]) -> pa.Table:
        flat = pa.array(values.reshape(-1), pa.float32())
        return table.append_column("features", pa.FixedSizeListArray.from_arrays(flat, type=kind))

    schema = _columns(names, labels, slice(0)).schema.append(pa.field("features", kind))
    with pyarrow.parquet.ParquetWriter(file, schema) as writer:
        for table in _tables(names, labels, blocks, add):
            writer.write_table(table)


def _write_csv(file: BinaryIO, names: Sequence[str], labels: Sequence[str], width: int, blocks: Blocks) -> None:
    titles = [f"f{number}" for number in range(width)]

    def add(table: pa.Table, values: NDArray[np.float32]) -> pa.Table:
        for title, column in zip(titles, values.T, strict=True):
            table = table.append_column(title, pa.array(column, pa.float32()))
        return table

    schema = _columns(names, labels, slice(0)).schema
    for title in titles:
        schema = schema.append(pa.field(title, pa.float32()))
    with pyarrow.csv.CSVWriter(file, schema) as writer:
        for table in _tables(names, labels, blocks, add):
            writer.write_table(table)


def _write_npy(file: BinaryIO, names: Sequence[str], labels: Sequence[str], width: int, blocks: Blocks) -> None:
    header = {"descr": np.lib.format.dtype_to_descr(np.dtype(np.float32)), "fortran_order": False}
    np.lib.format.write_array_header_1_0(file, header | {"shape": (len(names), width)})
    for values in blocks:
        file.write(np.ascontiguousarray(values).data)


def _utf8(text: str) -> str:
    """A text as parquet can hold it: bytes of a file name that is not UTF-8 are spelled out."""
    return visible(text) if any("\ud800" <= character <= "\udfff" for character in text) else text
