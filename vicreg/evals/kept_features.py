"""Features of one encoder and split in files, so that jobs that may share them compute them once.

A folder for each encoder, data, framing and precision; in it files of rows, `rows_FIRST_END`, of whichever rank of
whichever job. A file appears whole, with the SHA-256 of its values at its end; what is damaged is computed again. So
any number of jobs may write at the same time: a row is the same whoever computed it. Values that half precision holds
exactly, as those computed in it, take half the room. Who chose the folder removes it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from disk.whole_files import written
from vicreg.half_precision import HALVES

log = logging.getLogger(__name__)

KEEP_EVERY_S = 60.0
MAX_DISK_SHARE = 0.5
"""Of the room that is free on the disk; a split whose features take more is not kept."""
DIGEST_BYTES = 32
TYPES = {"float32": torch.float32, **{str(half).removeprefix("torch."): half for half in HALVES}}
_NAME = re.compile(rf"rows_(\d{{12}})_(\d{{12}})\.({'|'.join(TYPES)})")


class KeptFeatures:
    """This rank's rows of a split's features; without a folder nothing is kept."""

    def __init__(self, folder: Path | None, belongs_to: dict[str, object], own: range, total_bytes: int) -> None:
        """belongs_to: all that the rows depend on, JSON-able; total_bytes: of the whole split in float32."""
        self._own, self._kept_at = own, time.monotonic()
        self._folder: Path | None = None
        if folder is None:
            return
        described = json.dumps(belongs_to, sort_keys=True).encode()
        self._folder = folder / hashlib.sha256(described).hexdigest()[:32]
        there = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
        self._may_write = total_bytes <= MAX_DISK_SHARE * shutil.disk_usage(there).free
        if not self._may_write:
            log.warning("features of %.1f GB are not kept: more than half of what is free there", total_bytes / 1e9)

    def load(self, values: Tensor) -> list[range]:
        """Fill in those of this rank's rows (len(own), D) that are there; returns which of all rows are missing."""
        first, end = self._own.start, self._own.stop
        done = first
        missing: list[range] = []
        for begin, stop, path in self._files():
            if stop <= done or begin >= end:
                continue
            rows = _read(path, stop - begin, values.shape[1])
            if rows is None:
                continue
            if begin > done:
                missing.append(range(done, begin))
            taken = range(max(begin, done), min(stop, end))
            values[taken.start - first : taken.stop - first] = rows[taken.start - begin : taken.stop - begin]
            done = taken.stop
        missing += [range(done, end)] if done < end else []
        if num_there := len(self._own) - sum(map(len, missing)):
            log.info("features of %s of %s images are there", f"{num_there:,}", f"{len(self._own):,}")
        return missing

    def keep_if_due(self, values: Tensor, rows: range) -> bool:
        """`keep` where a minute has passed since the last time; whether it has."""
        if self._folder is None or time.monotonic() - self._kept_at < KEEP_EVERY_S:
            return False
        self.keep(values, rows)
        return True

    def keep(self, values: Tensor, rows: range) -> None:
        """Write down some rows, numbered among all, of this rank's (len(own), D), if they are finite.

        A disk that does not take them costs the next job its time, and this one nothing.
        """
        self._kept_at = time.monotonic()
        own = values[rows.start - self._own.start : rows.stop - self._own.start]
        if self._folder is None or not self._may_write or not rows or not bool(torch.isfinite(own).all()):
            return
        name, stored = next(pair for pair in _smallest_first(own) if torch.equal(pair[1].float(), own))
        content = stored.contiguous().view(torch.uint8).numpy().tobytes()
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            path = self._folder / f"rows_{rows.start:012d}_{rows.stop:012d}.{name}"
            with written(path, len(content)) as file:
                file.write(content)
                file.write(hashlib.sha256(content).digest())
        except OSError as error:
            self._may_write = False
            log.warning("features are not kept: %s", error)

    def _files(self) -> list[tuple[int, int, Path]]:
        """First row, end and path of all files, in the order of their rows."""
        found = []
        for path in self._folder.glob("rows_*") if self._folder else ():
            if named := _NAME.fullmatch(path.name):
                found.append((int(named[1]), int(named[2]), path))
        return sorted(found)


def _smallest_first(values: Tensor) -> Iterator[tuple[str, Tensor]]:
    for name, dtype in sorted(TYPES.items(), key=lambda kind: kind[1].itemsize):
        yield name, values.to(dtype)


def _read(path: Path, num_rows: int, num_features: int) -> Tensor | None:
    """The rows (num_rows, num_features) of a file; None where they are not what was written."""
    dtype = TYPES[path.suffix[1:]]
    try:
        content = bytearray(path.read_bytes())
    except FileNotFoundError:  # somebody has tidied up
        return None
    except OSError as error:
        log.warning("%s cannot be read: %s; computed again", path, error)
        return None
    values, digest = memoryview(content)[:-DIGEST_BYTES], content[-DIGEST_BYTES:]
    if len(values) != num_rows * num_features * dtype.itemsize or hashlib.sha256(values).digest() != digest:
        log.warning("%s is damaged; computed again", path)
        return None
    return torch.frombuffer(values, dtype=dtype).view(num_rows, num_features)
