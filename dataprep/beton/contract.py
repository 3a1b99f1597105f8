"""The file contract of a beton: header checks, per-sample metadata, decoding.

FFCV's own reader accepts a file whose writer never finished (it takes the whole file for the allocation table) and
fails on a cut one with numpy's "negative dimensions". This reader checks first and says what is wrong. It needs numpy
and Pillow only, so betons open on machines where FFCV cannot be installed. Metadata are read in parts, and what is kept
of them is 29 bytes per sample, however large the file. A flipped bit in them would be another label or another image,
so they must have the checksum that the manifest states, whenever a beton is opened.
"""

from __future__ import annotations

import functools
import io
import logging
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from border.text import suite_command
from dataprep.beton.bytes import REWRITE, BetonBytes, Memory, new_memory, runs
from dataprep.beton.bytes import BetonError as BetonError
from dataprep.beton.captions import CAPTIONS
from dataprep.beton.layout import FIELD_METADATA, IMAGE_METADATA, TYPE_BYTES
from dataprep.beton.layout import IMAGE_JPEG as IMAGE_JPEG
from dataprep.beton.layout import IMAGE_RAW as IMAGE_RAW
from dataprep.beton.manifest import manifest_path as manifest_path
from dataprep.beton.manifest import manifest_samples as manifest_samples
from dataprep.beton.manifest import read_manifest as read_manifest
from dataprep.beton.objects import MASKS, OBJECTS
from dataprep.beton.pixel_format import PixelFormat
from dataprep.beton.segments import SEGMENTS
from dataprep.beton.tables import (
    CLIP_NUMBERS,
    ROWS,
    image_metadata,
    image_sizes,
    read_fields,
    read_header,
    read_vectors,
    table,
)

logger = logging.getLogger(__name__)


class BadSample(BetonError):
    """A sample that cannot be used; one line names the beton, the sample, the reason and the cure."""

    def __init__(self, beton: Path, sample: int, reason: str) -> None:
        super().__init__(beton, sample, reason)
        self.beton, self.sample, self.reason = beton, sample, reason

    def __str__(self) -> str:
        listed = suite_command("dataprep/write_ffcv.py", "verify", self.beton)
        cure = (
            f"`{listed}` lists every damaged sample; copy or write the file again "
            "(training goes on without them with --data.on-bad skip)"
        )
        return f"{self.beton}: sample {self.sample:,} cannot be used ({self.reason}); {cure}"


@dataclass(frozen=True, eq=False)
class Beton:
    """An open beton: `file` has its bytes, the arrays describe its samples in the order of the metadata."""

    path: Path
    num_samples: int
    page_size: int
    table_start: int
    """Where the allocation table begins, and the data end."""
    field_names: tuple[str, ...]
    file: BetonBytes
    modes: NDArray[np.uint8]
    widths: NDArray[np.uint16] | NDArray[np.uint32]
    """In pixels; of sound, in samples."""
    heights: NDArray[np.uint16]
    pointers: NDArray[np.uint64]
    sizes: NDArray[np.uint64]
    labels: NDArray[Any]
    """(N,) int64, a class each; or (N, K) int8, for each of K classes 1 (present), -1 (absent), 0 (only difficult)."""
    pixels: PixelFormat
    """What its images consist of."""
    more: dict[str, NDArray[np.void]]
    """Where the bytes of each further field of a sample lie (N,), by the field's name (objects.py, segments.py,
    captions.py)."""
    clips: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    """Of sound: the `fold` (0: none) and the `recording` of each clip (N,)."""

    @property
    def memory(self) -> NDArray[np.uint8]:
        """The whole file, mapped when this is first asked for."""
        return self.file.mapped

    def image_bytes(self, sample: int) -> NDArray[np.uint8]:
        """The stored bytes of a sample's image: a JPEG file, or height x width x C values; read, never mapped."""
        return self.file.read(int(self.pointers[sample]), int(self.sizes[sample]))

    def checksum(self, sample: int, stored: NDArray[np.uint8]) -> int:
        """The CRC-32 that the manifest states of a sample: of its stored bytes, label vector and further fields."""
        own = zlib.crc32(stored.data)
        own = zlib.crc32(self.labels[sample].data, own) if self.labels.ndim == 2 else own
        for name in self.more:
            own = zlib.crc32(self.field_bytes(name, sample).data, own)
        return own

    def field_bytes(self, name: str, sample: int) -> NDArray[np.uint8]:
        """What a further field holds of a sample; read, never mapped."""
        place = self.more[name][sample]
        return self.file.read(int(place["ptr"]), int(place["size"]))

    def read_images(self, samples: NDArray[np.int64], memory: Memory = new_memory) -> dict[int, NDArray[np.uint8]]:
        """The stored bytes of some images, read in the order of the file, neighbours by one request; nothing is mapped.

        BetonError: the file cannot be read, or has been cut since it was opened.
        """
        samples = samples[np.argsort(self.pointers[samples])]
        starts, sizes = self.pointers[samples].astype(np.int64), self.sizes[samples].astype(np.int64)
        found = {}
        for run in runs(starts, sizes):
            first = int(starts[run.start])
            content = self.file.read(first, int((starts[run] + sizes[run]).max()) - first, memory)
            for sample, start, size in zip(samples[run], starts[run] - first, sizes[run], strict=True):
                found[int(sample)] = content[start : start + size]
        return found

    def decode(self, sample: int, stored: NDArray[np.uint8] | None = None) -> NDArray[Any]:
        """A sample's image, height x width x channels; BadSample when it does not decode to its stated size.

        RGB is uint8, others as `pixels` says. stored: its bytes, if they have been read already.
        """
        width, height = int(self.widths[sample]), int(self.heights[sample])
        stored = self.image_bytes(sample) if stored is None else stored
        if self.modes[sample] == IMAGE_RAW:
            return stored.view(self.pixels.dtype).reshape(height, width, self.pixels.channels)
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
    """Open a beton with the fields `image` or `sound`, and `label`; BetonError names what is wrong and its cure."""
    beton = read_beton(path)
    check_head(beton)
    return beton


def read_beton(path: Path) -> Beton:
    """`open_beton` without a look at the manifest: what the file says of itself."""
    path = Path(path)
    if path.is_dir():
        raise BetonError(f"{path} is a folder, allowed: a beton, such as {path / 'train.beton'}")
    if not path.is_file():
        raise BetonError(f"{path}: no such file; write it with dataprep/write_ffcv.py")
    file = BetonBytes(path)
    header = read_header(file)
    fields = read_fields(file, header)
    table_start, num_samples = int(header["alloc_table_ptr"]), int(header["num_samples"])
    columns = {name: np.empty(num_samples, IMAGE_METADATA[name]) for name in IMAGE_METADATA.names or ()}
    if fields.pixels.is_sound:  # longer than any side of an image
        columns["width"] = np.empty(num_samples, np.uint32)
    clips = {name: np.empty(num_samples, np.int64) for name in CLIP_NUMBERS if fields.pixels.is_sound}
    labels = np.empty(num_samples, FIELD_METADATA[fields.kinds["label"]])
    more = {
        name: np.empty(num_samples, FIELD_METADATA[TYPE_BYTES])
        for name in (OBJECTS, MASKS, SEGMENTS, CAPTIONS)
        if fields.kinds.get(name) == TYPE_BYTES
    }
    for part, rows in table(file, fields.start, num_samples, fields.record):
        found = image_metadata(rows, fields.pixels)
        for name, column in columns.items():
            column[part] = found[name]
        labels[part] = rows["label"]
        for name, column in (more | clips).items():
            column[part] = rows[name]
    beton = Beton(
        path=path,
        num_samples=num_samples,
        page_size=int(header["page_size"]),
        table_start=table_start,
        field_names=tuple(fields.kinds),
        file=file,
        modes=columns["mode"],
        widths=columns["width"],
        heights=columns["height"],
        pointers=columns["data_ptr"],
        sizes=image_sizes(file, table_start, columns["data_ptr"]),
        labels=read_vectors(file, table_start, labels, fields.label_length) if fields.label_length else labels,
        pixels=fields.pixels,
        more=more,
        clips=clips,
    )
    _check_images(beton)
    for name, places in more.items():
        sizes = places["size"]
        bad = (sizes == 0) | (sizes > table_start) | (places["ptr"] > np.uint64(table_start) - sizes)
        if bad.any():
            what = f"{int(bad.sum())} samples have damaged metadata of {name}, the first is {int(np.argmax(bad))}"
            raise BetonError(f"{path}: {what}; {REWRITE}")
    return beton


def check_head(beton: Beton, manifest: Path | None = None) -> None:
    """BetonError when header, metadata, labels or tables are not as they were written; 0.1 s for ImageNet.

    manifest: where it lies, if not beside the beton. Without one, or in an old one without these checksums, there is
    nothing to compare with, which is said once.
    """
    place = manifest or manifest_path(beton.path)
    if not place.exists():
        return _say_once(f"{beton.path}: no {place.name} beside it, so damage to its labels and tables cannot be seen")
    stated = read_manifest(beton.path, place)
    if not {"head_bytes", "head_crc32", "table_crc32"} <= stated.keys():
        return _say_once(f"{place}: an old one without checksums of labels and tables, so damage to them is not seen")
    head_bytes = stated["head_bytes"]
    if not isinstance(head_bytes, int) or not 0 < head_bytes <= beton.table_start:
        raise BetonError(f"{place}: damaged (its head_bytes are {head_bytes!r}); copy it again or {REWRITE}")
    found = {
        "head_crc32": beton.file.crc32(0, head_bytes),
        "table_crc32": beton.file.crc32(beton.table_start, beton.file.size),
    }
    if "labels_crc32" in stated:
        found["labels_crc32"] = labels_crc32(beton.labels)
    changed = [name for name, value in found.items() if stated[name] != value]
    if changed:
        what = f"its header, labels or tables are not those that were written ({', '.join(changed)} in {place.name})"
        raise BetonError(f"{beton.path}: {what}; copy both files again or {REWRITE}")


def labels_crc32(labels: NDArray[Any]) -> int:
    """CRC-32 of all labels, which label vectors, in the midst of the data, have no other of their own."""
    return zlib.crc32(np.ascontiguousarray(labels).data)


@functools.cache
def _say_once(what: str) -> None:
    logger.warning("%s", what)


def _check_images(beton: Beton) -> None:
    """Every image must lie inside the data, be of a known mode and, if raw, be of its stated size."""
    num_bad, first_bad, table_start = 0, 0, beton.table_start
    for first in range(0, beton.num_samples, ROWS):
        part = slice(first, first + ROWS)
        modes, sizes = beton.modes[part], beton.sizes[part]
        pixels_bytes = beton.widths[part].astype(np.uint64) * beton.heights[part] * np.uint64(beton.pixels.pixel_bytes)
        bad = (sizes == 0) | (sizes > table_start) | (beton.pointers[part] > np.uint64(table_start) - sizes)
        bad |= (modes > IMAGE_RAW) | ((modes == IMAGE_RAW) & (sizes != pixels_bytes))
        if bad.any():
            first_bad = first_bad if num_bad else first + int(np.argmax(bad))
            num_bad += int(bad.sum())
    if num_bad:
        raise BetonError(f"{beton.path}: {num_bad} samples have damaged metadata, the first is {first_bad}; {REWRITE}")
