"""Copies a large file to the node's own disk, once per node however many ranks ask for it, so that they read it there.

`python slurm/stage_data.py SOURCE FOLDER`. The copy is FOLDER/vicreg-<user id>/<hash of the source's path>/<name>, with
the manifest beside it that the source has (train.beton.json). It appears under its name when it was read back and found
right. The folder of the user is nobody else's, because the disk of a node is everybody's.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import logging
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # the tree that this file stands in, whatever is installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from border.documents import parse_json
from border.private_folder import private_folder
from border.terminal import complain, log_to
from disk.whole_files import publish, write_text
from slurm.cluster import expand_path

logger = logging.getLogger(__name__)

BLOCK_BYTES = 16 * 2**20
MANIFEST_SUFFIX = ".json"  # train.beton -> train.beton.json
TERMINATED_EXIT_CODE = 128 + signal.SIGTERM
CURE = "choose another folder (node_local_folder in clusters.toml), or read over the network, without --stage-data"


def stage(source: Path, folder: Path) -> Path:
    """The path of a verified copy of `source` in `folder`, on this node; made if it is not there already.

    Of several processes that ask at the same time one copies, and the others wait. ValueError for a source or folder
    that cannot be right, OSError when the copy cannot be made; then there is no file under the copy's name.
    """
    source = Path(os.path.abspath(source))
    root = Path(os.path.abspath(expand_path("FOLDER", str(folder))))
    if not source.is_file() or not os.access(source, os.R_OK):
        allowed = f"a file that there is on {socket.gethostname()} and that you may read"
        raise ValueError(f"SOURCE is {str(source)!r}, allowed: {allowed}; correct the path or its permissions")
    if root.resolve() == source.resolve().parent:
        raise ValueError(f"FOLDER is {str(folder)!r}, allowed: another one than the source's; {CURE}")
    own = root / f"vicreg-{os.geteuid()}"
    place = own / hashlib.sha256(os.fsencode(source)).hexdigest()[:8]
    try:
        private_folder(own)
        place.mkdir(exist_ok=True)
    except PermissionError as error:
        raise PermissionError(f"{error} (on {socket.gethostname()}); {CURE}") from error
    except OSError as error:
        raise OSError(f"{place} cannot be made on {socket.gethostname()}: {error}; {CURE}") from error
    with _only_one(own / f"{place.name}.lock"):
        _bring(source, place)
    return place / source.name


def _bring(source: Path, place: Path) -> None:
    """Make the copies in `place` what the source and its manifest are now; the manifest comes first."""
    start_s = time.monotonic()
    target = place / source.name
    manifest = source.with_name(source.name + MANIFEST_SUFFIX)
    wanted = [path for path in (manifest, source) if path.is_file()]
    needed = [path for path in wanted if not _is_there(path, place / path.name)]
    for path in {manifest, source}.difference(wanted) | set(needed):
        _remove(place / path.name)
    num_bytes = sum(path.stat().st_size for path in needed)
    free_bytes = shutil.disk_usage(place).free
    if num_bytes > free_bytes:
        free = f"{place} on {socket.gethostname()} has {free_bytes / 1e9:.3f} GB free"
        raise OSError(f"{free}, {source} needs {num_bytes / 1e9:.3f} GB; make room there, {CURE}")
    for path in needed:
        _copy(path, place / path.name)
    if not needed:
        logger.info("%s: already there, a copy of %s", target, source)
        return
    duration_s = time.monotonic() - start_s
    size_gb = num_bytes / 1e9
    speed = f"{size_gb:.3f} GB in {duration_s:.1f} s, {size_gb / duration_s:.2f} GB/s with reading back"
    logger.info("%s: copied from %s and verified, %s", target, source, speed)


def _is_there(source: Path, target: Path) -> bool:
    """Whether the record beside a copy says that it is one of the source as it is now, and the copy has its size."""
    try:
        record = parse_json(_record_path(target).read_bytes(), dict[str, Any])
        size_bytes = target.stat().st_size
    except (OSError, ValueError):
        return False
    now = _identity(source)
    return size_bytes == now["size"] and now.items() <= record.items()


def _identity(source: Path) -> dict[str, Any]:
    status = source.stat()
    return {"source": str(source), "size": status.st_size, "mtime_ns": status.st_mtime_ns}


def _record_path(target: Path) -> Path:
    return target.with_name(f".{target.name}.staged")


def _partial_path(target: Path) -> Path:
    """One per machine: whoever holds the lock owns it, and a folder that machines share by mistake does no harm."""
    return target.with_name(f".{target.name}.{socket.gethostname()}.partial")


def _remove(target: Path) -> None:
    """Remove a copy, its record first, and what a killed process left of it."""
    for path in (_record_path(target), target, _partial_path(target)):
        path.unlink(missing_ok=True)


def _copy(source: Path, target: Path) -> None:
    """Copy, bring to the disk, read back, compare, rename, and write the record."""
    partial = _partial_path(target)
    before = _identity(source)
    try:
        checksum = _write(source, partial)
        if _identity(source) != before or partial.stat().st_size != before["size"]:
            raise OSError(f"{source} changed while it was copied; start again when nothing writes to it")
        if _read_back(partial) != checksum:
            where = f"the disk under {target.parent} on {socket.gethostname()}"
            raise OSError(
                f"{where} gives back other bytes than were written; keep that node out with --exclude, {CURE}"
            )
        publish(partial, target)
        write_text(_record_path(target), json.dumps(before | {"sha256": checksum}) + "\n")
    finally:
        partial.unlink(missing_ok=True)


def _write(source: Path, target: Path) -> str:
    """Copy in large blocks; the SHA-256 of what was read, as hexadecimal digits."""
    digest = hashlib.sha256()
    try:
        with source.open("rb", buffering=0) as reading, target.open("wb", buffering=0) as writing:
            block = memoryview(bytearray(BLOCK_BYTES))
            while num_bytes := reading.readinto(block):
                digest.update(block[:num_bytes])
                unwritten = block[:num_bytes]
                while unwritten:
                    unwritten = unwritten[writing.write(unwritten) :]
            os.fsync(writing.fileno())  # so that what is read back is the disk's
    except OSError as error:
        raise OSError(f"copying {source} to {target.parent} failed: {error}; {CURE}") from error
    return digest.hexdigest()


def _read_back(path: Path) -> str:
    """The SHA-256 of what the disk has, not of what memory still holds of it."""
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _only_one(lock: Path) -> Iterator[None]:
    """Wait until no other process of this node is here; the system lets go of the lock of a process that dies."""
    with lock.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            raise OSError(f"{lock} cannot be locked on {socket.gethostname()}: {error}; {CURE}") from error
        yield


def main() -> None:
    """The command: one line about what was done, or an error and exit code 1."""
    parser = argparse.ArgumentParser(prog="python slurm/stage_data.py", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("source", metavar="SOURCE", type=Path, help="file to copy")
    parser.add_argument("folder", metavar="FOLDER", help="folder on the node's disk; $VARIABLES are expanded")
    arguments = parser.parse_args()
    log_to({logging.StreamHandler(sys.stdout): "%(message)s"})
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup ignores one on purpose
            signal.signal(number, lambda *_: sys.exit(TERMINATED_EXIT_CODE))  # the unfinished file goes with it
    try:
        if not arguments.folder:
            raise ValueError(f"FOLDER is '', allowed: a folder on the node's disk; {CURE}")
        stage(arguments.source, Path(arguments.folder))
    except (OSError, ValueError) as error:
        complain(f"error: {error}")
        sys.exit(1)


if __name__ == "__main__":
    main()
