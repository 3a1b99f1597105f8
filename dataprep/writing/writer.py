"""A raw data set to a beton: workers check and encode, this process writes, and the file appears whole or not at all.

The suite writes FFCV's format by its own code, because FFCV's DatasetWriter waits for ever when a worker raises or
dies, writes in place (an unfinished file looks finished to its reader), and decodes and re-encodes every image. Here
results come back in order through a bounded window, so the same source and options give the same bytes with any number
of workers, and memory holds only the metadata: about 60 bytes, a label vector and a path per sample.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dataprep.beton.captions import words
from dataprep.beton.contract import (
    BetonError,
    check_head,
    labels_crc32,
    manifest_path,
    open_beton,
    read_beton,
    read_manifest,
)
from dataprep.writing.beton_file import MAX_SAMPLE_BYTES, BetonFile
from dataprep.writing.channel_statistics import ChannelStatistics
from dataprep.writing.encoder_pool import EncoderPool, WorkerDied
from dataprep.writing.manifest import identity, samples_per_class, software, write_manifest
from dataprep.writing.raw_captions import store_captions
from dataprep.writing.raw_objects import StoredObjects, store_objects, store_segments
from dataprep.writing.raw_source import Source
from dataprep.writing.sample_encoding import Chunk, Encoded, FilePart, Rejected, Result, SourceUnreadable
from dataprep.writing.write_plan import WritePlan
from disk.whole_files import failure, partial_path, publish, remove_stale_partials

_FILES_PER_CHUNK = 32
_ARRAYS_PER_CHUNK = 256


class WriteError(RuntimeError):
    """The beton could not be written; nothing is at its name."""


@dataclass
class WriteProgress:
    """How far a write has come."""

    num_total: int
    num_done: int = 0
    num_kept: int = 0
    num_bytes: int = 0
    rejected: list[tuple[str, str]] = field(default_factory=list)
    """Relative path and reason."""
    flawed: list[tuple[str, str]] = field(default_factory=list)
    """Relative path and flaw of images that decoded whole in spite of it, and were encoded anew."""
    num_objects: int = 0
    num_outside: int = 0
    """Boxes that reach out of their image."""
    left_out: list[tuple[str, str]] = field(default_factory=list)
    """Relative path of an image, and why an object or a caption of it was left out."""
    num_captions: int = 0
    words: Counter[str] = field(default_factory=Counter)
    """How often each word stands in the captions."""
    started_s: float = field(default_factory=time.monotonic)
    seconds: float = 0.0
    """Duration of the whole write, once it is over."""

    def see(self, name: str, stored: StoredObjects) -> None:
        """Count the objects, or the captions and their words, of an image."""
        self.num_objects += stored.num_objects
        self.num_outside += stored.num_outside
        self.left_out += [(name, why) for why in stored.left_out]
        self.num_captions += len(stored.captions)
        for caption in stored.captions:
            self.words.update(words(caption))

    @property
    def images_per_s(self) -> float:
        """Images read per second, up to now or over the whole write."""
        return self.num_done / max(self.seconds or time.monotonic() - self.started_s, 1e-9)


def already_written(source: Source, target: Path, plan: WritePlan) -> bool:
    """Is a whole beton of this source and plan at `target`? BetonError when something else is there."""
    if not target.exists():
        return False
    try:
        manifest = read_manifest(target)
        num_bytes = open_beton(target).file.size
    except BetonError as error:
        raise BetonError(f"{target} exists and is not whole ({error}); --overwrite replaces it") from error
    wanted = identity(source, plan)
    differing = [key for key, value in wanted.items() if _differs(manifest.get(key), value)]
    if manifest.get("beton_bytes") != num_bytes:
        differing.append("size")
    if differing:
        found = "; ".join(f"{key}: {_difference(manifest.get(key), wanted.get(key))}" for key in differing)
        raise BetonError(f"{target} exists and is another ({found}); --overwrite replaces it, or choose another --out")
    return True


def _differs(found: object, wanted: object) -> bool:
    """Do two parts of a manifest differ in anything that this version knows?"""
    if isinstance(found, dict) and isinstance(wanted, dict):
        return any(found.get(key) != value for key, value in wanted.items())
    return found != wanted


def _difference(found: object, wanted: object) -> str:
    """The entries in which two parts of a manifest differ."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        keys = [key for key in wanted if found.get(key) != wanted[key]]
        return ", ".join(f"{key} {found.get(key)!r} there, {wanted[key]!r} wanted" for key in keys)
    return "differs"


def write_beton(
    source: Source,
    target: Path,
    plan: WritePlan,
    *,
    num_workers: int | None = None,
    on_bad: Literal["skip", "fail"] = "skip",
    report: Callable[[WriteProgress], None] = lambda progress: None,
) -> WriteProgress:
    """Write `target` and its manifest, replacing what was there; on WriteError or a signal nothing is left behind.

    `num_workers`: encoder processes; None for one per usable core, 0 to encode in this process.
    """
    target = target.absolute()
    partial, partial_manifest = partial_path(target), partial_path(manifest_path(target))
    order = plan.order(len(source))
    progress = WriteProgress(num_total=len(order))
    statistics = ChannelStatistics(len(order), plan.pixels)
    with contextlib.ExitStack() as cleanup:
        cleanup.callback(_remove, partial_manifest)
        cleanup.callback(_remove, partial)
        results = cleanup.enter_context(contextlib.closing(_encoded(source, order, plan, num_workers)))
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            remove_stale_partials(target)
            with partial.open("wb") as file:
                beton = BetonFile(file, len(order), source.label_length, plan.pixels, source.more_fields)
                _fill(beton, source, results, on_bad, progress, report, statistics)
                head_crc, table_crc = beton.finish()
            head = _manifest_head(source, plan, beton, progress)
            head |= {"head_crc32": head_crc, "table_crc32": table_crc, "labels_crc32": labels_crc32(beton.labels)}
            head |= statistics.measured()
            if source.objects is not None:
                head |= {"num_objects": progress.num_objects, "num_outside": progress.num_outside}
                head["left_out"] = progress.left_out
            if source.captions is not None:
                head |= {"num_captions": progress.num_captions, "left_out": progress.left_out}
                head["words"] = dict(sorted(progress.words.items(), key=lambda item: (-item[1], item[0])))
            head |= {"flawed": progress.flawed, "rejected": progress.rejected}
            names = map(source.relative_path, map(int, beton.indices))
            write_manifest(partial_manifest, head, zip(names, map(int, beton.crcs), strict=False))
            check_head(read_beton(partial), partial_manifest)
            _publish(partial, partial_manifest, target)
        except BrokenPipeError:  # of the progress that is reported, never of a file
            raise
        except OSError as error:
            needed = progress.num_bytes * progress.num_total / max(progress.num_done, 1)
            _remove(partial)  # so that what is free is what a next try will find
            cure = "choose another --out or a lower --max-resolution"
            raise WriteError(failure(error, target, needed, cure)) from error
    progress.num_bytes = beton.num_bytes
    progress.seconds = time.monotonic() - progress.started_s
    return progress


def _encoded(
    source: Source, order: NDArray[np.int64], plan: WritePlan, num_workers: int | None
) -> Generator[tuple[int, Result], None, None]:
    """Position in the source and result of each sample, in `order`."""
    draws = plan.jpeg_draws(len(source))
    per_chunk = _FILES_PER_CHUNK if isinstance(source.content(0), FilePart) else _ARRAYS_PER_CHUNK
    num_chunks = -(-len(order) // per_chunk)
    cores = len(os.sched_getaffinity(0))

    def positions(number: int) -> list[int]:
        part: list[int] = order[number * per_chunk : (number + 1) * per_chunk].tolist()
        return part

    def get_chunk(number: int) -> Chunk:
        return [(source.content(position), bool(draws[position])) for position in positions(number)]

    with EncoderPool(min(cores if num_workers is None else num_workers, num_chunks), plan.image_options) as pool:
        try:
            for number, results in enumerate(pool.encode(num_chunks, get_chunk)):
                yield from zip(positions(number), results, strict=True)
        except WorkerDied as error:
            held = positions(error.chunk)
            first, last = source.relative_path(held[0]), source.relative_path(held[-1])
            raise WriteError(f"{error}, while it held the {len(held)} images {first} .. {last}") from error


def _fill(
    beton: BetonFile,
    source: Source,
    results: Iterator[tuple[int, Result]],
    on_bad: Literal["skip", "fail"],
    progress: WriteProgress,
    report: Callable[[WriteProgress], None],
    statistics: ChannelStatistics,
) -> None:
    """Append every usable sample; keep the names and reasons of the others."""
    for position, result in results:
        name = source.relative_path(position)
        if isinstance(result, SourceUnreadable):
            raise WriteError(f"cannot read {result.path}: {result.error}; the source must be readable as a whole")
        if isinstance(result, Encoded) and len(result.data) > MAX_SAMPLE_BYTES:
            result = Rejected(f"{len(result.data):,} bytes do not fit a page of FFCV ({MAX_SAMPLE_BYTES:,})")
        label: Any = source.labels[position]
        more: tuple[bytes, ...] = ()
        if isinstance(result, Encoded) and source.more_fields:
            stored = _stored(source, position, result.height, result.width)
            if isinstance(stored, str):
                result = Rejected(stored)
            else:
                label, more = label if stored.label is None else stored.label, stored.fields
                progress.see(name, stored)
        if isinstance(result, Encoded):
            clips = source.clips
            clip = (int(clips.folds[position]), int(clips.recordings[position])) if clips else ()
            beton.append(result, label, position, more, clip)
            statistics.see(result)
            progress.num_kept += result.kept
            progress.num_bytes = beton.num_bytes
            if result.flaw:
                progress.flawed.append((name, result.flaw))
        else:
            if on_bad == "fail":
                raise WriteError(f"{name}: {result.reason}; --on-bad skip would leave it out and go on")
            progress.rejected.append((name, result.reason))
        progress.num_done += 1
        report(progress)
    if beton.num_samples == 0:
        name, reason = progress.rejected[0]
        raise WriteError(f"none of {progress.num_total:,} images can be used; the first, {name}: {reason}")


def _stored(source: Source, position: int, height: int, width: int) -> StoredObjects | str:
    """What is stored of an image beside it, or why it cannot be."""
    if source.captions is not None:
        return store_captions(source.captions(position))
    if source.segments is not None:
        return store_segments(source.segments(position), height, width, source.label_length)
    assert source.objects is not None
    return store_objects(source.objects(position), height, width, source.label_length)


def _manifest_head(source: Source, plan: WritePlan, beton: BetonFile, progress: WriteProgress) -> dict[str, object]:
    """All of the manifest but the checksums, the rejected and the samples."""
    return {
        "software": software(plan.pixels.is_sound),
        "beton_bytes": beton.num_bytes,
        "head_bytes": beton.head_bytes,
        "num_samples": beton.num_samples,
        "num_kept_jpegs": progress.num_kept,
        "page_size": beton.page_size,
        "fields": beton.fields,
        "channels": plan.pixels.channels,
        "bits": plan.pixels.bits,
        **identity(source, plan),
        "samples_per_class": samples_per_class(beton.labels, source.classes),
    }


def _publish(partial: Path, partial_manifest: Path, target: Path) -> None:
    """Move both files to their places: at no moment does a beton have the manifest of another."""
    target.unlink(missing_ok=True)
    publish(partial_manifest, manifest_path(target))
    publish(partial, target)


def _remove(path: Path) -> None:
    """Remove a file if it is there; what cannot be removed must not hide why it should be."""
    with contextlib.suppress(OSError):
        path.unlink()
