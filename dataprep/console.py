"""What the command shows: progress, summary, findings of verify, the table of info."""

from __future__ import annotations

import contextlib
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from border.terminal import Terminal, say
from border.text import visible
from dataprep.beton.captions import CAPTIONS, decode_captions
from dataprep.beton.contract import IMAGE_JPEG, Beton, BetonError, manifest_path, open_beton, read_manifest
from dataprep.beton.objects import CROWD, DIFFICULT, MASKS, OBJECTS, decode_objects
from dataprep.beton.verification import problems
from dataprep.writing.writer import WriteProgress

_LINE_EVERY_S = 10.0
_REDRAW_EVERY_S = 0.1
_REASONS_SHOWN = 5
_PROBLEMS_SHOWN = 20
_CLASSES_SHOWN = 12


@contextlib.contextmanager
def show_progress(name: str) -> Iterator[Callable[[WriteProgress], None]]:
    """Progress of a write: a bar with rate and time left on a terminal, a line every ten seconds elsewhere."""
    last_s = time.monotonic()
    with _bar() as bar:
        task = bar.add_task(name, total=None, rate="") if bar else None

        def report(progress: WriteProgress) -> None:
            nonlocal last_s
            now_s = time.monotonic()
            if now_s - last_s < (_REDRAW_EVERY_S if bar else _LINE_EVERY_S):
                return
            last_s = now_s
            rate = f"{progress.images_per_s:,.0f} images/s"
            if progress.rejected:
                rate += f", {len(progress.rejected):,} rejected"
            if bar and task is not None:
                bar.update(task, total=progress.num_total, completed=progress.num_done, rate=rate)
            else:
                left_s = (progress.num_total - progress.num_done) / max(progress.images_per_s, 1e-9)
                say(f"{name}: {progress.num_done:,} of {progress.num_total:,}, {rate}, {left_s:,.0f} s left")

        yield report


def _bar() -> contextlib.AbstractContextManager[Progress | None]:
    """rich's progress bar on a terminal, nothing elsewhere."""
    if not sys.stdout.isatty():
        return contextlib.nullcontext()
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}", markup=False),
        TimeRemainingColumn(),
    )
    return Progress(TextColumn("{task.description}", markup=False), *columns, console=Terminal(), transient=True)


def show_summary(done: WriteProgress, target: Path, manifest: Path) -> None:
    """What was written, and the first of what was not."""
    num_written = done.num_done - len(done.rejected)
    kept = f" ({done.num_kept:,} JPEGs kept byte for byte)" if done.num_kept else ""
    per_class = _samples_per_class(read_manifest(target))
    lost = [name for name, count in per_class.items() if count == 0]
    num_classes = len(per_class) - len(lost)
    pixels = open_beton(target).pixels
    what = "" if pixels.is_rgb else f" of {pixels}"
    of_classes = f" of {num_classes:,} {'class' if num_classes == 1 else 'classes'}" if per_class else " without labels"
    flawed = f", {len(done.flawed):,} flawed and encoded anew" if done.flawed else ""
    say(
        f"{target}: {num_written:,} samples{what}{of_classes}{kept}{flawed}, {len(done.rejected):,} rejected, "
        f"{done.num_bytes:,} bytes, {done.seconds:,.1f} s, {done.images_per_s:,.0f} images/s"
    )
    if done.num_objects or (done.left_out and not done.num_captions):
        say(f"  {done.num_objects:,} objects, {done.num_outside:,} boxes reach out of their image")
    if done.num_captions:
        say(f"  {done.num_captions:,} captions of {len(done.words):,} different words")
    for kind, names in (("rejected", done.rejected), ("flawed", done.flawed), ("left_out", done.left_out)):
        for name, reason in names[:_REASONS_SHOWN]:
            say(f"  {kind.replace('_', ' ')} {visible(name)}: {visible(reason)}")
        if len(names) > _REASONS_SHOWN:
            say(f"  ... all of them under `{kind}` in {manifest}")
    if lost:
        say(f"  {len(lost):,} classes without a sample: {_shorten(lost)}")


def _samples_per_class(manifest: dict[str, Any]) -> dict[str, int]:
    """How many samples show each class."""
    counts = manifest["samples_per_class"].items()
    return {name: count["1"] if isinstance(count, dict) else count for name, count in counts}


def _shorten(names: list[str]) -> str:
    """The first of some names."""
    return ", ".join(map(visible, names[:_CLASSES_SHOWN])) + (" ..." if len(names) > _CLASSES_SHOWN else "")


def show_verification(path: Path, decode: bool) -> int:
    """Print the problems of a beton, of each kind the first; returns the exit code, 1 when there is any."""
    counts: Counter[str] = Counter()
    with _bar() as bar:
        task = bar.add_task(f"verify {path.name}", total=None, rate="") if bar else None

        def report(done: int, total: int) -> None:
            if bar and task is not None and (done % 256 == 0 or done == total):
                bar.update(task, total=total, completed=done)

        for problem in problems(path, decode=decode, report=report):
            counts[problem.kind] += 1
            if counts[problem.kind] <= _PROBLEMS_SHOWN:
                say(visible(problem.text))
    for kind, count in counts.items():
        if count > _PROBLEMS_SHOWN:
            say(f"... and {count - _PROBLEMS_SHOWN:,} more {kind}")
    if counts:
        found = f"{counts.total():,} problem{'' if counts.total() == 1 else 's'}"
        say(f"{path}: {found}; copy the file again, or write it again with --overwrite")
        return 1
    say(f"{path}: whole; {open_beton(path).num_samples:,} samples, every byte as it was written")
    return 0


def describe(path: Path) -> None:
    """Print a table of what a beton is; BetonError when it is none."""
    beton = open_beton(path)
    num_jpeg = int((beton.modes == IMAGE_JPEG).sum())
    stored = beton.sizes.astype(np.float64)
    sides = (
        f"{beton.widths.min()} x {beton.heights.min()} to {beton.widths.max()} x {beton.heights.max()}, "
        f"mean {beton.widths.mean():.0f} x {beton.heights.mean():.0f}"
    )
    table = Table(title=str(path), show_header=False, title_justify="left")
    rows = {
        "samples": f"{beton.num_samples:,} ({num_jpeg:,} JPEG, {beton.num_samples - num_jpeg:,} raw)",
        "bytes": f"{beton.file.size:,} ({stored.mean():,.0f} per image, largest {stored.max():,.0f})",
        "samples are" if beton.pixels.is_sound else "pixels": str(beton.pixels),
        **(_describe_clips(beton) if beton.pixels.is_sound else {"width x height": sides}),
        "fields": ", ".join(beton.field_names),
        "page size": f"{beton.page_size:,} bytes",
        "labels": _describe_labels(beton.labels),
        **_describe_objects(beton),
        **_describe_captions(beton),
    }
    try:
        rows |= _manifest_rows(path)
    except BetonError as error:
        rows["manifest"] = str(error)
    for name, value in rows.items():
        table.add_row(name, visible(value))
    Terminal().print(table)


def _describe_labels(labels: NDArray[Any]) -> str:
    """The range of classes, or what the label vectors say on average."""
    if labels.ndim == 1:
        return f"{len(np.unique(labels)):,} different, {labels.min()} to {labels.max()}"
    present, difficult, absent = ((labels == value).sum(axis=1).mean() for value in (1, 0, -1))
    per_image = f"{present:.2f} present, {difficult:.2f} difficult, {absent:.2f} absent"
    return f"vectors of {labels.shape[1]} classes; per image {per_image}"


def _describe_clips(beton: Beton) -> dict[str, str]:
    """How long clips of sound are, and which belong together."""
    rate_hz, folds = beton.pixels.rate_hz, np.unique(beton.clips["fold"])
    low, high = int(beton.widths.min()), int(beton.widths.max())
    length = f"{low:,} samples" if low == high else f"{low:,} to {high:,} samples"
    return {
        "length": f"{length}, {low / rate_hz:.4g} to {high / rate_hz:.4g} s"
        if low != high
        else f"{length}, {low / rate_hz:.4g} s",
        "folds": ", ".join(map(str, folds.tolist())) if folds.any() else "none",
        "recordings": f"{len(np.unique(beton.clips['recording'])):,}",
    }


def _describe_objects(beton: Beton) -> dict[str, str]:
    """How many objects there are, and of which kinds."""
    if OBJECTS not in beton.more:
        return {}
    flags = np.concatenate(
        [decode_objects(beton.field_bytes(OBJECTS, sample))["flags"] for sample in range(beton.num_samples)]
    )
    kinds = f"{int((flags == DIFFICULT).sum()):,} difficult, {int((flags == CROWD).sum()):,} crowds"
    masks = ", with masks" if MASKS in beton.more else ""
    return {"objects": f"{len(flags):,}, {len(flags) / beton.num_samples:.2f} per image ({kinds}){masks}"}


def _describe_captions(beton: Beton) -> dict[str, str]:
    """How many captions there are, and the first."""
    if CAPTIONS not in beton.more:
        return {}
    captions = [decode_captions(beton.field_bytes(CAPTIONS, sample).tobytes()) for sample in range(beton.num_samples)]
    counts = list(map(len, captions))
    return {
        "captions": f"{sum(counts):,}, {min(counts)} to {max(counts)} of an image; the first: {captions[0][0][:60]}"
    }


def _manifest_rows(path: Path) -> dict[str, str]:
    """What only the manifest knows."""
    manifest = read_manifest(path)
    classes, counts = manifest["classes"], _samples_per_class(manifest).values()
    source, options = manifest["source"], manifest["options"]
    place = " ".join(filter(None, (source["name"], source["split"])))
    return {
        "classes": f"{len(classes):,} with {min(counts):,} to {max(counts):,} samples: {_shorten(classes)}"
        if classes
        else "none: the images have no labels",
        "source": f"{place} in {source['root']}, {source['num_listed']:,} images listed",
        "options": ", ".join(f"{name} {value}" for name, value in options.items() if value is not None),
        "kept JPEGs": f"{manifest['num_kept_jpegs']:,}",
        "rejected": f"{len(manifest['rejected']):,} (listed in {manifest_path(path).name})",
        "written by": ", ".join(f"{name} {version}" for name, version in manifest["software"].items()),
    }
