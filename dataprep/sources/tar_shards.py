"""Tar shards with webdataset's naming, read in place: `000017.jpg` and `000017.cls` are one sample.

A sample's key is its members' path up to the first dot of the file's name; an image has the extension of one, `cls`
holds the class (a number or a name). Without `cls` in any sample the images have no labels.
"""

from __future__ import annotations

import re
import tarfile
from array import array
from pathlib import Path, PurePosixPath

from dataprep.sources.own_images import IMAGE_SUFFIXES, Listing, as_source
from dataprep.sources.tar_members import list_tar
from dataprep.writing.raw_source import Source, SourceError
from dataprep.writing.sample_encoding import FilePart

SUFFIX = ".tar"
_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")
_LABEL = "cls"
_NUMBERS = "npy"  # an image where there is no other; beside one, its features or the like
_MAX_LABEL_BYTES = 1000


def open_shards(root: Path, shards: list[Path], split: str = "") -> Source:
    """The samples of the shards, one shard after the other; SourceError names the shard, the member and the cure."""
    listing = Listing([], [])
    assert listing.labels is not None
    place = array("Q"), array("Q"), array("Q")  # shard, offset, size
    for number, shard in enumerate(shards):
        for key, image, offset, size, label in _samples(shard):
            listing.paths.append(f"{shard.name}/{key}.{image}")
            listing.labels.append(label)
            for column, value in zip(place, (number, offset, size), strict=True):
                column.append(value)
    without = [path for path, label in zip(listing.paths, listing.labels, strict=True) if not label]
    if without and len(without) < len(listing.paths):
        raise SourceError(f"{without[0]} and {len(without) - 1:,} more have no .{_LABEL} beside them, others have one")
    if without or not listing.paths:
        listing = Listing(listing.paths, None)
    if not listing.paths:
        raise SourceError(f"{root} holds no images; expected members such as 000017.jpg and 000017.{_LABEL}")
    names = [str(shard) for shard in shards]
    return as_source("shards", root, split, listing, lambda i: FilePart(names[place[0][i]], place[1][i], place[2][i]))


def expanded(pattern: Path) -> list[Path]:
    """The shards that webdataset's braces stand for, `shard-{000..011}.tar`; none where there are no braces."""
    found = _BRACES.search(str(pattern))
    if not found:
        return []
    first, last = found.groups()
    numbers = range(int(first), int(last) + 1)
    return [Path(str(pattern).replace(found[0], f"{number:0{len(first)}d}")) for number in numbers]


def _samples(shard: Path) -> list[tuple[str, str, int, int, str]]:
    """Key, extension, offset, size and label ("" for none) of each image of a shard, in its order."""
    images: dict[str, tuple[str, int, int]] = {}
    labels: dict[str, str] = {}
    try:
        with shard.open("rb") as file:
            for name, offset, size in list_tar(file):
                path = PurePosixPath(name)
                stem, _, extension = path.name.partition(".")
                key = str(path.with_name(stem)) if stem else ""
                if not key or stem.startswith("__"):  # such as __index__ of a writer
                    continue
                if f".{extension.lower()}" in IMAGE_SUFFIXES:
                    beside = images[key][0] if key in images else _NUMBERS
                    if extension == _NUMBERS and key in images:
                        continue
                    if beside != _NUMBERS:
                        raise SourceError(f"{shard}: {key} has two images, .{beside} and .{extension}")
                    images[key] = (extension, offset, size)
                elif extension == _LABEL:
                    file.seek(offset)
                    labels[key] = file.read(min(size, _MAX_LABEL_BYTES)).decode("utf-8", "replace").strip()
    except FileNotFoundError as error:
        raise SourceError(f"{shard}: no such file; all shards that --root names must be there") from error
    except tarfile.TarError as error:
        raise SourceError(f"{shard} cannot be read as an uncompressed tar ({error}); get it again") from error
    return [(key, *where, labels.get(key, "")) for key, where in images.items()]
