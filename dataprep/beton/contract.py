"""The file contract of a beton: header checks, per-sample metadata, decoding, and the manifest beside it.

FFCV's own reader accepts a file whose writer never finished (it takes the whole file for the allocation table) and
fails on a cut one with numpy's "negative dimensions". This reader checks first and says what is wrong. It needs numpy
and Pillow only, so betons open on machines where FFCV cannot be installed. Metadata are read in parts, and what is kept
of them is 29 bytes per sample, however large the file.
"""

from __future__ import annotations

import io
import json
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dataprep.beton.bytes import REWRITE, BetonBytes, runs
from dataprep.beton.bytes import BetonError as BetonError
from dataprep.beton.layout import FIELD_METADATA, IMAGE_METADATA
from dataprep.beton.tables import ROWS, image_sizes, read_fields, read_header, read_vectors, table

MANIFEST_SCHEMA = 1
IMAGE_JPEG = 0
IMAGE_RAW = 1


class BadSample(BetonError):
    """A sample that cannot be used; one line names the beton, the sample, the reason and the cure."""

    def __init__(self, beton: Path, sample: int, reason: str) -> None:
        super().__init__(beton, sample, reason)
        self.beton, self.sample, self.reason = beton, sample, reason

    def __str__(self) -> str:
        cure = f"`python dataprep/write_ffcv.py verify {shlex.quote(str(self.beton))}` lists every damaged sample"
        return f"{self.beton}: sample {self.sample:,} cannot be used ({self.reason}); {cure}"


@dataclass(frozen=True, eq=False)
class Beton:
    """An open beton: `file` has its bytes, the arrays describe its samples in the order of the metadata."""

    path: Path
    num_samples: int
    page_size: int
    field_names: tuple[str, ...]
    file: BetonBytes
    modes: NDArray[np.uint8]
    widths: NDArray[np.uint16]
    heights: NDArray[np.uint16]
    pointers: NDArray[np.uint64]
    sizes: NDArray[np.uint64]
    labels: NDArray[Any]
    """(N,) int64, a class each; or (N, K) int8, for each of K classes 1 (present), -1 (absent), 0 (only difficult)."""

    @property
    def memory(self) -> NDArray[np.uint8]:
        """The whole file, mapped when this is first asked for."""
        return self.file.mapped

    def image_bytes(self, sample: int) -> NDArray[np.uint8]:
        """The stored bytes of a sample's image: a JPEG file, or height x width x 3 values."""
        start = int(self.pointers[sample])
        return self.memory[start : start + int(self.sizes[sample])]

    def read_images(self, samples: NDArray[np.int64]) -> dict[int, NDArray[np.uint8]]:
        """The stored bytes of some images, read in the order of the file, neighbours by one request; nothing is mapped.

        BetonError: the file cannot be read, or has been cut since it was opened.
        """
        samples = samples[np.argsort(self.pointers[samples])]
        starts, sizes = self.pointers[samples].astype(np.int64), self.sizes[samples].astype(np.int64)
        found = {}
        for run in runs(starts, sizes):
            first = int(starts[run.start])
            content = self.file.read(first, int((starts[run] + sizes[run]).max()) - first)
            for sample, start, size in zip(samples[run], starts[run] - first, sizes[run], strict=True):
                found[int(sample)] = content[start : start + size]
        return found

    def decode(self, sample: int, stored: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
        """A sample's image as height x width x 3 RGB; BadSample when it does not decode to its stated size.

        stored: its bytes, if they have been read already.
        """
        width, height = int(self.widths[sample]), int(self.heights[sample])
        stored = self.image_bytes(sample) if stored is None else stored
        if self.modes[sample] == IMAGE_RAW:
            return stored.reshape(height, width, 3)
        try:
            with Image.open(io.BytesIO(stored.tobytes()), formats=["JPEG"]) as image:
                pixels = np.array(image.convert("RGB"))
        except (OSError, ValueError, SyntaxError) as error:
            raise BadSample(self.path, sample, f"it does not decode: {error}") from error
        if pixels.shape != (height, width, 3):
            found = f"{pixels.shape[1]} x {pixels.shape[0]}"
            raise BadSample(self.path, sample, f"its JPEG is {found} pixels, stated {width} x {height}")
        return pixels

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled as its path: another process opens the file again instead of receiving a copy."""
        return open_beton, (self.path,)


def open_beton(path: Path) -> Beton:
    """Open a beton with the fields `image` and `label`; BetonError names what is wrong and its cure."""
    path = Path(path)
    if not path.is_file():
        raise BetonError(f"{path}: no such file; write it with dataprep/write_ffcv.py")
    file = BetonBytes(path)
    header = read_header(file)
    fields = read_fields(file, header)
    table_start, num_samples = int(header["alloc_table_ptr"]), int(header["num_samples"])
    columns = {name: np.empty(num_samples, IMAGE_METADATA[name]) for name in IMAGE_METADATA.names or ()}
    labels = np.empty(num_samples, FIELD_METADATA[fields.kinds["label"]])
    for part, rows in table(file, fields.start, num_samples, fields.record):
        for name, column in columns.items():
            column[part] = rows["image"][name]
        labels[part] = rows["label"]
    beton = Beton(
        path=path,
        num_samples=num_samples,
        page_size=int(header["page_size"]),
        field_names=tuple(fields.kinds),
        file=file,
        modes=columns["mode"],
        widths=columns["width"],
        heights=columns["height"],
        pointers=columns["data_ptr"],
        sizes=image_sizes(file, table_start, columns["data_ptr"]),
        labels=read_vectors(file, table_start, labels, fields.label_length) if fields.label_length else labels,
    )
    _check_images(beton, table_start)
    return beton


def _check_images(beton: Beton, table_start: int) -> None:
    """Every image must lie inside the data, be of a known mode and, if raw, be of its stated size."""
    num_bad, first_bad = 0, 0
    for first in range(0, beton.num_samples, ROWS):
        part = slice(first, first + ROWS)
        modes, sizes = beton.modes[part], beton.sizes[part]
        pixels_bytes = beton.widths[part].astype(np.uint64) * beton.heights[part] * np.uint64(3)
        bad = (sizes == 0) | (sizes > table_start) | (beton.pointers[part] > np.uint64(table_start) - sizes)
        bad |= (modes > IMAGE_RAW) | ((modes == IMAGE_RAW) & (sizes != pixels_bytes))
        if bad.any():
            first_bad = first_bad if num_bad else first + int(np.argmax(bad))
            num_bad += int(bad.sum())
    if num_bad:
        raise BetonError(f"{beton.path}: {num_bad} samples have damaged metadata, the first is {first_bad}; {REWRITE}")


def manifest_path(beton: Path) -> Path:
    """Where a beton's manifest lies: train.beton -> train.beton.json."""
    return beton.with_name(beton.name + ".json")


def read_manifest(beton: Path) -> dict[str, Any]:
    """A beton's manifest without its `samples` (see `manifest_samples`); BetonError when missing or damaged."""
    path = manifest_path(beton)
    try:
        with path.open(encoding="utf-8") as file:
            head = []
            for line in file:
                if line.startswith('"samples":'):
                    head.append('"samples": []}')
                    break
                head.append(line)
        manifest: dict[str, Any] = json.loads("".join(head))
    except FileNotFoundError as error:
        raise BetonError(f"{path}: no such file; a beton written by this suite has its manifest beside it") from error
    except ValueError as error:
        raise BetonError(f"{path}: damaged ({error}); {REWRITE}") from error
    if manifest.get("schema") != MANIFEST_SCHEMA:
        found = manifest.get("schema")
        raise BetonError(f"{path}: manifest schema is {found!r}, this version reads {MANIFEST_SCHEMA}; {REWRITE}")
    del manifest["samples"]
    return manifest


def manifest_samples(beton: Path) -> Iterator[tuple[str, int]]:
    """Relative path and CRC-32 of each sample, one line at a time: the list of a million samples is never held."""
    path = manifest_path(beton)
    with path.open(encoding="utf-8") as file:
        for line in file:
            if line.startswith('"samples":'):
                break
        for line in file:
            if line.startswith("]"):
                return
            try:
                name, crc = json.loads(line.rstrip().rstrip(","))
            except ValueError as error:
                raise BetonError(f"{path}: damaged line {line[:80]!r}; {REWRITE}") from error
            yield name, crc
    raise BetonError(f"{path}: ends before its list of samples does; {REWRITE}")
