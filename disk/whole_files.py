"""Files that appear whole or not at all: written beside their place, brought to the disk, renamed, the folder flushed.

The only place that renames. Without the flush before it, a machine that loses power keeps the new name and not the
content; without the one of the folder, neither. What is not finished lies beside its place under a hidden name that
says whose it is, `.train.beton.<host>.<pid>.partial`: a process that was killed outright leaves one behind, and the
next write to the same place removes it. Files of other machines stay, since nobody here can tell whether their process
lives.
"""

from __future__ import annotations

import errno
import functools
import glob
import logging
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_FLUSH_THERE = (errno.EINVAL, errno.ENOTSUP)

logger = logging.getLogger(__name__)


def write_text(path: Path, text: str) -> None:
    """Put a text, as UTF-8, in the place of a file; its folder is made if it is not there. Errors as of `written`."""
    content = text.encode("utf-8", "surrogateescape")
    path.parent.mkdir(parents=True, exist_ok=True)
    with written(path, len(content)) as file:
        file.write(content)


def require_new(out: Path) -> None:
    """ValueError where something is at the place of a command's output."""
    if out.exists():
        raise ValueError(f"{out} exists already; remove it, or choose another place with --out")


@contextmanager
def written(path: Path, needed_bytes: float) -> Iterator[BinaryIO]:
    """A file to write to, which is put in the place of `path` when the block ends well, and removed when it does not.

    Errors as of `room_for`.
    """
    _remove_leftovers(path)
    partial = partial_path(path)
    with room_for(path, needed_bytes):
        try:
            with partial.open("wb") as file:
                yield file
            publish(partial, path)
        finally:
            with suppress(OSError):
                partial.unlink(missing_ok=True)  # first: what is said to be free is what a next try will find


@contextmanager
def room_for(path: Path, needed_bytes: float, cure: str = "choose another folder") -> Iterator[None]:
    """OSError that names path, need and cure (room, or `cure`) where the block, which writes `path`, fills the disk."""
    try:
        yield
    except Exception as error:
        full = full_disk(error)
        if full is None:
            raise
        named = OSError(failure(full, path, needed_bytes, cure))
        named.errno = full.errno
        raise named from error


def publish(partial: Path, target: Path) -> None:
    """Bring a finished file or folder to the disk, move it to its place, and bring that to the disk.

    A folder that is at `target` must be removed before; a file is replaced.
    """
    for path in partial.rglob("*") if partial.is_dir() else ():
        _flush(path)
    _flush(partial)
    os.replace(partial, target)
    _flush(target.parent)


def partial_path(target: Path) -> Path:
    """Where this process writes what will become `target`."""
    return target.with_name(f".{target.name}.{socket.gethostname()}.{os.getpid()}.partial")


def remove_stale_partials(target: Path) -> None:
    """Remove what dead processes of this machine left of `target`; OSError when a living one is writing it."""
    for path, host, pid in _partials(target):
        host = host.removeprefix("json.")
        if host != socket.gethostname() or not pid.isdigit():
            logger.warning("%s: unfinished, of another machine; remove it if no write is running there", path)
        elif int(pid) == os.getpid() or not _is_alive(int(pid)):
            _remove(path)
            logger.info("removed %s, left by a write that was killed", path)
        else:
            raise FileExistsError(f"process {pid} is writing {target} ({path} is its unfinished file); wait or stop it")


def failure(error: OSError, target: Path, needed_bytes: float, cure: str) -> str:
    """A failed write in the user's terms: where, how much is needed, how much is free, and `cure`, if not room."""
    if error.errno not in _DISK_FULL:
        return f"cannot write {target}: {error}"
    there = next(folder for folder in target.absolute().parents if folder.is_dir())
    free = shutil.disk_usage(there).free
    need = f"about {needed_bytes / 1e6:,.1f} MB are needed" if needed_bytes else "not even its first bytes fit"
    room = f"make room on the disk of {there} (or in your quota, or `ulimit -f`), or {cure}"
    return f"cannot write {target}: {os.strerror(error.errno)}; {need}, {free / 1e6:,.1f} MB are free now; {room}"


def full_disk(error: BaseException) -> OSError | None:
    """The full disk behind an error, if that is what it is; libraries that write put errors of their own on top."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in _DISK_FULL:
            return seen
        seen = seen.__cause__ or seen.__context__
    return None


@functools.cache
def _remove_leftovers(target: Path) -> None:
    """What dead processes of this machine left of `target`; looked for once in a process."""
    for path, host, pid in _partials(target):
        if host == socket.gethostname() and pid.isdigit() and int(pid) != os.getpid() and not _is_alive(int(pid)):
            _remove(path)


def _partials(target: Path) -> list[tuple[Path, str, str]]:
    """Unfinished files of `target`, each with the machine and the process that it is of."""
    found = []
    for path in sorted(target.parent.glob(f".{glob.escape(target.name)}.*.partial")):
        host, _, pid = path.name.removeprefix(f".{target.name}.").removesuffix(".partial").rpartition(".")
        found.append((path, host, pid))
    return found


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    """Bring a file or a folder's names to the disk, where the file system can be told to."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_FLUSH_THERE:
            raise
    finally:
        os.close(descriptor)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
