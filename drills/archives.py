"""Tars with a flipped bit in a header, or cut off: an error, never fewer photos than there were."""

from __future__ import annotations

import io
import os
import random
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

from dataprep.sources import imagenet_tars
from dataprep.sources.tar_shards import open_shards
from dataprep.writing.raw_source import Source, SourceError
from drills.faults import flipped_bit, refusal
from drills.jpeg_damage import encoded, picture
from drills.tally import Drill

FLIPS, CUTS = 200, 100
"""Of each try, one at a time."""
HEADER_BYTES = 512
Samples = list[tuple[str, str, object]]
"""Name, class and place of each."""
TARS = ("shards", "ImageNet's")


def drills() -> Sequence[Drill]:
    """All of this kind."""
    return [
        Drill(f"{FLIPS} bits in headers of a tar", _flip_headers, len(TARS)),
        Drill(f"{CUTS} cuts of a tar", _cut, len(TARS)),
    ]


def _flip_headers(number: int, folder: Path) -> None:
    """An error, unless the header still says the same."""
    tar, read = _write_tar(folder, TARS[number % len(TARS)])
    whole, headers, draw = read(), _headers(tar), random.Random(number)
    for _ in range(FLIPS):
        place, bit = draw.choice(headers) + draw.randrange(HEADER_BYTES), draw.randrange(8)
        with flipped_bit(tar, place, bit):
            try:
                same, said = read() == whole, "something else was read without an error"
            except SourceError as error:
                same, said = False, str(error)
        assert same or str(tar) in said, f"bit {bit} of byte {place} of {tar.name} was flipped: {said}"


def _cut(number: int, folder: Path) -> None:
    """An error wherever something of a member, or the mark of the end, is missing."""
    tar, read = _write_tar(folder, TARS[number % len(TARS)])
    whole_bytes, draw = tar.stat().st_size, random.Random(number)
    with tarfile.open(tar) as archive:
        end = max(member.offset_data + member.size for member in archive)
    for size in sorted(draw.sample(range(end + 1), CUTS), reverse=True):
        os.truncate(tar, size)
        said = refusal(read, (SourceError,))
        assert str(tar) in said, f"{tar.name} was cut from {whole_bytes} to {size} bytes: {said or 'no error'}"


def _write_tar(folder: Path, kind: str) -> tuple[Path, Callable[[], Samples]]:
    """An archive, and what reads it."""
    photos = [encoded(picture(seed), quality=85) for seed in range(6)]
    if kind == "shards":
        path = folder / "000.tar"
        images = {f"{number:06d}.jpg": photo for number, photo in enumerate(photos)}
        labels = {f"{number:06d}.cls": str(number % 2).encode() for number in range(len(photos))}
        members = dict(sorted((images | labels).items()))
        path.write_bytes(tar_of(members))
        return path, lambda: _samples(open_shards(path, [path]))
    path = folder / imagenet_tars.TAR_NAMES["train"]
    classes = {
        f"n0000000{wnid}.tar": tar_of({f"n0000000{wnid}_{n}.JPEG": photo for n, photo in enumerate(photos)})
        for wnid in range(3)
    }
    path.write_bytes(tar_of(classes))
    return path, lambda: _samples(imagenet_tars.open_split(folder, "train"))


def tar_of(members: dict[str, bytes]) -> bytes:
    """The content of a tar with these files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def _headers(tar: Path) -> list[int]:
    """Where members begin, also those of tars within."""
    found, content = list[int](), tar.read_bytes()
    with tarfile.open(tar) as archive:
        for member in archive:
            found.append(member.offset)
            if member.name.endswith(".tar"):
                part = content[member.offset_data : member.offset_data + member.size]
                with tarfile.open(fileobj=io.BytesIO(part)) as inner:
                    found += [member.offset_data + photo.offset for photo in inner]
    return found


def _samples(source: Source) -> Samples:
    names = [source.classes[label] for label in source.labels]
    return [(source.relative_path(n), name, source.content(n)) for n, name in enumerate(names)]
