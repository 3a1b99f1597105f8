"""Is a beton still what was written? Every byte of the file is looked at once, and every problem is named."""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from dataprep.beton.contract import (
    IMAGE_JPEG,
    Beton,
    BetonError,
    manifest_path,
    manifest_samples,
    open_beton,
    read_manifest,
)
from dataprep.beton.jpeg_check import BadImage, flaw_of, read_jpeg_header
from dataprep.beton.layout import ALLOCATION, HEADER


def problems(
    path: Path, *, decode: bool = False, report: Callable[[int, int], None] = lambda done, total: None
) -> Iterator[str]:
    """Everything that is wrong with a beton, one line each; `report` gets samples done and their total.

    Header, sizes, allocation table; CRC-32 of head, table and each sample (image and label vector) as in the manifest;
    zeros between the samples; every JPEG's own header and, with `decode`, all of its Huffman codes. Without a manifest
    the checksums are missing, which is a problem of its own.
    """
    try:
        beton = open_beton(path)
    except BetonError as error:
        yield str(error)
        return
    yield from _layout_problems(beton)
    try:
        manifest = read_manifest(path)
    except BetonError as error:
        yield f"{error}; without it no checksum can be checked"
        yield from _sample_problems(beton, itertools.repeat(("", None), beton.num_samples), decode, report)
        return
    yield from _manifest_problems(beton, manifest)
    try:
        yield from _sample_problems(beton, manifest_samples(path), decode, report)
    except BetonError as error:
        yield str(error)


def _layout_problems(beton: Beton) -> Iterator[str]:
    """Images and label vectors that overlap or straddle a page, and bytes where there should be none."""
    table_start = int(beton.memory[: HEADER.itemsize].view(HEADER)[0]["alloc_table_ptr"])
    table = beton.memory[table_start:].view(ALLOCATION)
    table = table[np.argsort(table["ptr"])]
    samples, starts = table["sample_id"], table["ptr"].astype(np.int64)
    ends = starts + table["size"].astype(np.int64)
    for place in np.flatnonzero(starts[1:] < ends[:-1]):
        yield f"samples {samples[place]} and {samples[place + 1]} overlap"
    for place in np.flatnonzero(starts // beton.page_size != (ends - 1) // beton.page_size):
        yield f"sample {samples[place]} straddles a page of {beton.page_size:,} bytes: FFCV's process cache would fail"
    following = np.append(starts[1:], table_start)
    for place in np.flatnonzero(following > ends):
        start, end = following[place], ends[place]
        if beton.memory[end:start].any():
            yield f"bytes {end:,} to {start:,} are not zero, but belong to no sample"


def _manifest_problems(beton: Beton, manifest: dict[str, Any]) -> Iterator[str]:
    """Size, count, head and table as the manifest states them."""
    header = beton.memory[: HEADER.itemsize].view(HEADER)[0]
    table_start, first_data = int(header["alloc_table_ptr"]), int(beton.pointers.min())
    head_bytes = int(manifest.get("head_bytes", 0))
    num_rows = (beton.memory.size - table_start) // ALLOCATION.itemsize
    facts = {
        "beton_bytes": beton.memory.size,
        "num_samples": beton.num_samples,
        "page_size": beton.page_size,
        "head_crc32": zlib.crc32(beton.memory[:head_bytes].data),
        "table_crc32": zlib.crc32(beton.memory[table_start:].data),
    }
    for name, found in facts.items():
        if manifest.get(name) != found:
            yield f"{name} is {found}, the manifest says {manifest.get(name)}"
    if num_rows != beton.num_samples * beton.labels.ndim:  # an image each, and a label vector where labels are some
        yield f"the allocation table has {num_rows:,} rows for {beton.num_samples:,} samples"
    if head_bytes > first_data or beton.memory[head_bytes:first_data].any():
        yield f"bytes {head_bytes:,} to {first_data:,}, before the first sample, are not zero"


def _sample_problems(
    beton: Beton, listed: Iterator[tuple[str, int | None]], decode: bool, report: Callable[[int, int], None]
) -> Iterator[str]:
    """Checksum and JPEG header of every sample; `listed` has path and checksum of each."""
    num_listed = 0
    for sample, (name, crc) in enumerate(listed):
        num_listed += 1
        if sample >= beton.num_samples:
            continue
        where = f"sample {sample} ({name})" if name else f"sample {sample}"
        content = beton.image_bytes(sample)
        found = zlib.crc32(content.data)
        if beton.labels.ndim == 2:
            found = zlib.crc32(beton.labels[sample].data, found)
        if crc is not None and found != crc:
            yield f"{where}: its bytes have changed (CRC-32 {found:08x}, manifest {crc:08x})"
        if beton.modes[sample] == IMAGE_JPEG:
            size = int(beton.widths[sample]), int(beton.heights[sample])
            yield from (f"{where}: {problem}" for problem in _jpeg_problems(content.tobytes(), size, decode))
        report(sample + 1, beton.num_samples)
    if num_listed != beton.num_samples:
        yield f"{manifest_path(beton.path).name} lists {num_listed:,} samples, the beton has {beton.num_samples:,}"


def _jpeg_problems(content: bytes, size: tuple[int, int], decode: bool) -> Iterator[str]:
    """A JPEG's own header against the metadata, and its data to the last Huffman code."""
    try:
        header = read_jpeg_header(content)
        if (header.width, header.height) != size:
            yield f"the JPEG is {header.width} x {header.height}, the metadata say {size[0]} x {size[1]}"
        elif decode:
            flaw_of(content, header)
    except BadImage as error:
        yield str(error)
