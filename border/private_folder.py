"""Folders that are one user's alone, in places where everybody may write (/tmp, /dev/shm, disks of nodes).

Whoever knows a name beforehand can be there first, with a folder of his own or a link. So nothing is read or written
under such a name before this has looked at it.
"""

from __future__ import annotations

import os
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

SHARED_BY_GROUP, SHARED_BY_ALL = 0o022, 0o002


def private_folder(path: Path) -> Path:
    """Make a folder, or take one that is there, in which nobody but this user can read, write or put anything.

    PermissionError, with who could, when it is no such folder; OSError when it cannot be made.
    """
    for each in (*reversed(path.parents), path):
        if not os.path.lexists(each):
            with suppress(FileExistsError):  # somebody was quicker; who, is looked at below
                each.mkdir(mode=0o700)
    require_private(path)
    return path


def require_private(path: Path) -> None:
    """PermissionError unless a folder is this user's alone, and no other user can put something else in its place."""
    found = path.lstat()
    kind = "a link" if stat.S_ISLNK(found.st_mode) else "no folder"
    if not stat.S_ISDIR(found.st_mode):
        raise _refusal(path, f"is {kind} of user {found.st_uid}")
    if found.st_uid != os.geteuid():
        raise _refusal(path, f"belongs to user {found.st_uid}")
    if stat.S_IMODE(found.st_mode) & 0o077:
        raise _refusal(path, f"has mode {stat.S_IMODE(found.st_mode):04o}: others may read it or write there")
    for way in (Path(os.path.abspath(path)), path.resolve()):
        for entry in (way, *way.parents[:-1]):
            _require_in_place(path, entry)


def temporary_folder(name: str) -> Path:
    """The folder `name` of this user in the temporary folder: the same at every call, or a new one if that is taken."""
    try:
        return private_folder(private_folder(Path(tempfile.gettempdir()) / f"vicreg-{os.geteuid()}") / name)
    except PermissionError:
        return Path(tempfile.mkdtemp(prefix=f"vicreg-{name}-"))


def _require_in_place(path: Path, entry: Path) -> None:
    """Refuse `path` if somebody else may replace `entry`, which is on the way to it."""
    parent, owner = entry.parent.stat(), entry.lstat().st_uid
    if parent.st_mode & SHARED_BY_GROUP and owner not in (0, os.geteuid()):
        raise _refusal(path, f"lies in {entry}, which belongs to user {owner}")
    if parent.st_mode & SHARED_BY_ALL and not parent.st_mode & stat.S_ISVTX:
        raise _refusal(path, f"lies in {entry.parent}, where everybody may rename everything (chmod +t mends it)")


def _refusal(path: Path, fault: str) -> PermissionError:
    return PermissionError(f"{path} {fault}; allowed: a folder of user {os.geteuid()} alone, of mode 0700")
