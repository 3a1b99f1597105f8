"""Files that are not finished lie beside their place under a hidden name that says whose they are.

`.train.beton.<host>.<pid>.partial`: a write that was killed outright leaves one behind, and the next write to the same
place removes it. Files of other machines stay, since nobody here can tell whether their process lives.
"""

from __future__ import annotations

import errno
import glob
import logging
import os
import shutil
import socket
from pathlib import Path

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

logger = logging.getLogger(__name__)


def partial_path(target: Path) -> Path:
    """Where this process writes what will become `target`."""
    return target.with_name(f".{target.name}.{socket.gethostname()}.{os.getpid()}.partial")


def remove_stale_partials(target: Path) -> None:
    """Remove what dead processes of this machine left of `target`; OSError when a living one is writing it."""
    for path in sorted(target.parent.glob(f".{glob.escape(target.name)}.*.partial")):
        host, _, pid = path.name.removeprefix(f".{target.name}.").removesuffix(".partial").rpartition(".")
        host = host.removeprefix("json.")
        if host != socket.gethostname() or not pid.isdigit():
            logger.warning("%s: unfinished, of another machine; remove it if no write is running there", path)
        elif int(pid) == os.getpid() or not _is_alive(int(pid)):
            path.unlink(missing_ok=True)
            logger.info("removed %s, left by a write that was killed", path)
        else:
            raise FileExistsError(f"process {pid} is writing {target} ({path} is its unfinished file); wait or stop it")


def publish(partial: Path, target: Path) -> None:
    """Move a finished file, whose content is on the disk, to its place, and bring that to the disk."""
    os.replace(partial, target)
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def failure(error: OSError, target: Path, needed_bytes: float, cure: str) -> str:
    """A failed write in the user's terms: where, how much is needed, how much is free, and `cure`, if not room."""
    if error.errno not in _DISK_FULL:
        return f"cannot write {target}: {error}"
    there = next(folder for folder in target.absolute().parents if folder.is_dir())
    free = shutil.disk_usage(there).free
    need = f"about {needed_bytes / 1e6:,.1f} MB are needed" if needed_bytes else "not even its first bytes fit"
    room = f"make room on the disk of {there} (or in your quota, or `ulimit -f`), or {cure}"
    return f"cannot write {target}: {os.strerror(error.errno)}; {need}, {free / 1e6:,.1f} MB are free now; {room}"


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
