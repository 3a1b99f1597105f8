"""What lies in an uncompressed tar, and where: members are read in place, nothing is unpacked."""

from __future__ import annotations

import io
import tarfile
from typing import BinaryIO

_PART_BYTES = 1 << 20


def list_tar(file: BinaryIO, start: int = 0, end: int = -1) -> list[tuple[str, int, int]]:
    """Name, offset and size of the regular files of an uncompressed tar that lies in `file` from `start` to `end`.

    Without `end` to the file's. Raises tarfile.TarError for what is none, is cut off, or has a damaged header.
    """
    end = file.seek(0, io.SEEK_END) if end < 0 else end
    file.seek(start)
    found = []
    with tarfile.open(fileobj=file, mode="r:") as archive:
        while (member := archive.next()) is not None and member.offset < end:
            if member.offset_data + member.size > end:
                raise tarfile.ReadError(f"{member.name} is cut off at byte {end:,}")
            if member.isfile():
                found.append((member.name.removeprefix("./"), member.offset_data, member.size))
        last = archive.offset
    _check_nothing_follows(file, last, end)
    return found


def _check_nothing_follows(file: BinaryIO, start: int, end: int) -> None:
    """ReadError unless a tar ends in zeros and nothing else: tarfile takes a damaged header for its end."""
    if start >= end:
        raise tarfile.ReadError(f"it ends at byte {end:,} without the mark of its end: cut off?")
    file.seek(start)
    while part := file.read(min(_PART_BYTES, max(0, end - file.tell()))):
        if part.count(0) < len(part):
            raise tarfile.ReadError(f"the header at byte {start:,} is damaged, {end - start:,} bytes lie behind it")
