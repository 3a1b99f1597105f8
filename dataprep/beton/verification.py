"""Is a beton still what was written? Every byte of the file is looked at once, and every problem is named.

The file is read in parts, not mapped: one that shrinks meanwhile is a problem like any other, not the process's end.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dataprep.beton.captions import CAPTIONS, BadCaptions, decode_captions
from dataprep.beton.contract import (
    IMAGE_JPEG,
    Beton,
    BetonError,
    manifest_path,
    manifest_samples,
    read_beton,
    read_manifest,
)
from dataprep.beton.jpeg_check import BadImage, flaw_of, read_jpeg_header
from dataprep.beton.layout import ALLOCATION
from dataprep.beton.objects import MASKS, OBJECTS, BadObjects, decode_masks, decode_objects, fault
from dataprep.beton.segments import SEGMENTS, BadSegments, decode_segments, unknown_class


class Problem(NamedTuple):
    """One thing that is wrong, and what others like it are called."""

    kind: str
    text: str


def problems(
    path: Path, *, decode: bool = False, report: Callable[[int, int], None] = lambda done, total: None
) -> Iterator[Problem]:
    """Everything that is wrong with a beton, one by one; `report` gets samples done and their total.

    Header, sizes, allocation table; CRC-32 of head, table and each sample (image and label vector) as in the manifest;
    zeros between the samples; every JPEG's own header and, with `decode`, all of its Huffman codes. Without a manifest
    the checksums are missing, which is a problem of its own.
    """
    try:
        beton = read_beton(path)
        yield from _layout_problems(beton)
        listed: Iterator[tuple[str, int | None]] = itertools.repeat(("", None), beton.num_samples)
        try:
            yield from _manifest_problems(beton, read_manifest(path))
            listed = manifest_samples(path)
        except BetonError as error:
            yield Problem("manifest", f"{error}; without it no checksum can be checked")
        yield from _sample_problems(beton, listed, decode, report)
    except BetonError as error:
        yield Problem("file", str(error))


def _layout_problems(beton: Beton) -> Iterator[Problem]:
    """Images and label vectors that overlap or straddle a page, and bytes where there should be none."""
    num_rows = (beton.file.size - beton.table_start) // ALLOCATION.itemsize
    most = beton.num_samples * len(beton.field_names)
    if num_rows > most:
        text = f"the allocation table has {num_rows:,} rows for {beton.num_samples:,} samples, allowed: {most:,}"
        yield Problem("table", f"{text}; was something appended to the file?")
        return
    table = beton.file.read(beton.table_start, num_rows * ALLOCATION.itemsize).view(ALLOCATION)
    table = table[np.argsort(table["ptr"])]
    samples, starts = table["sample_id"], table["ptr"].astype(np.int64)
    ends = starts + table["size"].astype(np.int64)
    for place in np.flatnonzero(starts[1:] < ends[:-1]):
        yield Problem("samples that overlap", f"samples {samples[place]} and {samples[place + 1]} overlap")
    for place in np.flatnonzero(starts // beton.page_size != (ends - 1) // beton.page_size):
        what = f"straddles a page of {beton.page_size:,} bytes: FFCV's process cache would fail"
        yield Problem("samples that straddle a page", f"sample {samples[place]} {what}")
    following = np.append(starts[1:], beton.table_start)
    for place in np.flatnonzero(following > ends):
        start, end = max(0, int(ends[place])), min(int(following[place]), beton.table_start)
        if _is_written(beton, start, end):
            text = f"bytes {start:,} to {end:,} are not zero, but belong to no sample"
            yield Problem("stretches that are not zero", text)


def _is_written(beton: Beton, start: int, end: int) -> bool:
    """Is any of these bytes not zero?"""
    return any(part.any() for part in beton.file.parts(start, end))


def _manifest_problems(beton: Beton, manifest: dict[str, Any]) -> Iterator[Problem]:
    """Size, count, head and table as the manifest states them."""
    file, first_data = beton.file, int(beton.pointers.min())
    head_bytes = manifest.get("head_bytes")
    head_bytes = min(head_bytes, first_data) if isinstance(head_bytes, int) and head_bytes >= 0 else 0
    num_rows = (file.size - beton.table_start) // ALLOCATION.itemsize
    facts = {
        "beton_bytes": file.size,
        "num_samples": beton.num_samples,
        "page_size": beton.page_size,
        "head_bytes": head_bytes,
        "head_crc32": file.crc32(0, head_bytes),
        "table_crc32": file.crc32(beton.table_start, file.size),
    }
    for name, found in facts.items():
        if manifest.get(name) != found:
            yield Problem("facts", f"{name} is {found}, the manifest says {manifest.get(name)!r}")
    num_fields = beton.labels.ndim + len(beton.more)  # an image each, a label vector where labels are some, and more
    if num_rows != beton.num_samples * num_fields:
        yield Problem("facts", f"the allocation table has {num_rows:,} rows for {beton.num_samples:,} samples")
    if _is_written(beton, head_bytes, first_data):
        yield Problem("facts", f"bytes {head_bytes:,} to {first_data:,}, before the first sample, are not zero")


def _sample_problems(
    beton: Beton, listed: Iterator[tuple[str, int | None]], decode: bool, report: Callable[[int, int], None]
) -> Iterator[Problem]:
    """Checksum and JPEG header of every sample; `listed` has path and checksum of each."""
    num_listed, buffer = 0, np.empty(int(beton.sizes.max()), np.uint8)
    for sample, (name, crc) in enumerate(listed):
        num_listed += 1
        if sample >= beton.num_samples:
            continue
        where = f"sample {sample} ({name})" if name else f"sample {sample}"
        content = buffer[: int(beton.sizes[sample])]
        beton.file.read_into(content, int(beton.pointers[sample]))
        found = beton.checksum(sample, content)
        if crc is not None and found != crc:
            text = f"{where}: its bytes have changed (CRC-32 {found:08x}, manifest {crc:08x})"
            yield Problem("samples whose bytes have changed", text)
        if beton.modes[sample] == IMAGE_JPEG:
            size = int(beton.widths[sample]), int(beton.heights[sample])
            for problem in _jpeg_problems(content, size, decode):
                yield Problem("JPEGs that are damaged", f"{where}: {problem}")
        for problem in _object_problems(beton, sample):
            yield Problem("objects that are damaged", f"{where}: {problem}")
        report(sample + 1, beton.num_samples)
    if num_listed != beton.num_samples:
        text = f"{manifest_path(beton.path).name} lists {num_listed:,} samples, the beton has {beton.num_samples:,}"
        yield Problem("manifest", text)


def _object_problems(beton: Beton, sample: int) -> list[str]:
    """What is wrong with the boxes, classes and masks of a sample, the classes of its pixels, or its captions."""
    size = int(beton.heights[sample]), int(beton.widths[sample])
    num_classes = beton.labels.shape[1] if beton.labels.ndim == 2 else 0
    if SEGMENTS in beton.more:
        try:
            said = unknown_class(decode_segments(beton.field_bytes(SEGMENTS, sample), *size), num_classes)
        except BadSegments as error:
            said = str(error)
        return [said] if said else []
    if CAPTIONS in beton.more:
        try:
            decode_captions(beton.field_bytes(CAPTIONS, sample).tobytes())
        except BadCaptions as error:
            return [str(error)]
    if OBJECTS not in beton.more:
        return []
    try:
        objects = decode_objects(beton.field_bytes(OBJECTS, sample))
        masks = decode_masks(beton.field_bytes(MASKS, sample)) if MASKS in beton.more else [None] * len(objects)
    except BadObjects as error:
        return [str(error)]
    if len(masks) != len(objects):
        return [f"{len(masks)} masks for {len(objects)} objects"]
    pairs = enumerate(zip(objects, masks, strict=True))
    found = [(number, fault(one, mask, size, num_classes)) for number, (one, mask) in pairs]
    return [f"object {number}: {said}" for number, said in found if said]


def _jpeg_problems(stored: NDArray[np.uint8], size: tuple[int, int], decode: bool) -> Iterator[str]:
    """A JPEG's own header against the metadata, and its data to the last Huffman code."""
    content = stored.tobytes()
    try:
        header = read_jpeg_header(content)
        if (header.width, header.height) != size:
            yield f"the JPEG is {header.width} x {header.height}, the metadata say {size[0]} x {size[1]}"
        elif decode:
            flaw_of(content, header)
    except BadImage as error:
        yield str(error)
