"""PASCAL VOC for detection: 2007 and 2012 trainval as one training set, 2007 test to measure on.

Layout: the archives unpack into `VOCdevkit/VOC2007` and `VOCdevkit/VOC2012`, with photos `JPEGImages/<id>.jpg`, lists
`ImageSets/Main/{trainval,test}.txt` of an id a line, and `Annotations/<id>.xml` with the image's size and its objects:
name, difficult, and corners in pixels that count from 1 and belong to the box themselves. A box here reaches from the
first corner's pixel's beginning to the last one's end, as detectron2 takes it.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Literal
from xml.etree import ElementTree

import numpy as np

from dataprep.beton.objects import DIFFICULT, OBJECT, presence
from dataprep.sources import published
from dataprep.sources.voc07 import CLASSES
from dataprep.writing.raw_objects import RawObjects, usable
from dataprep.writing.raw_source import Source, SourceError, existing_folder, listed_files, require_split

Years = Literal["07+12", "07"]
_OFFICIAL_SPLIT = {"train": "trainval", "trainval": "trainval", "val": "test", "test": "test"}
_MAX_XML_BYTES = 1 << 22


def open_split(root: Path, split: str, years: Years) -> Source:
    """The images of trainval or, of 2007, test, in the order of the lists; SourceError says what is missing."""
    root = existing_folder(root)
    require_split(split, tuple(_OFFICIAL_SPLIT))
    official = _OFFICIAL_SPLIT[split]
    folder = next((place for place in (root / "VOCdevkit", root, root.parent) if (place / "VOC2007").is_dir()), root)
    wanted = ["VOC2007", *(["VOC2012"] if years == "07+12" and official == "trainval" else [])]
    paths: list[str] = []
    objects: list[RawObjects] = []
    crc = 0
    for year in wanted:
        for image in _read_list(folder / year, official):
            file = folder / year / "Annotations" / f"{image}.xml"
            content = _read(file)
            crc = zlib.crc32(content, crc)
            paths.append(f"{year}/JPEGImages/{image}.jpg")
            objects.append(read_annotation(content, file))
    labels = [presence(usable(one, len(CLASSES)).objects, len(CLASSES)) for one in objects]
    return Source(
        name=f"voc{years}-detection",
        root=str(root),
        split=split,
        classes=CLASSES,
        labels=np.stack(labels),
        relative_path=paths.__getitem__,
        content=listed_files(folder, paths, folder / wanted[-1] / "ImageSets" / "Main" / f"{official}.txt"),
        objects=objects.__getitem__,
        annotations_crc32=crc,
    )


def _read_list(base: Path, official: str) -> list[str]:
    """The ids of a list."""
    year, place = base.name, base / "ImageSets" / "Main" / f"{official}.txt"
    try:
        ids = place.read_text(encoding="utf-8", errors="replace").split()
    except OSError as error:
        archives = published.VOC12 if year == "VOC2012" else published.VOC07
        other = "; --years 07 takes 2007 alone" if year == "VOC2012" else ""
        raise SourceError(f"{place} is missing; unpack {archives[official]} so that it is there{other}") from error
    if not ids or len(set(ids)) < len(ids):
        raise SourceError(f"{place} lists {len(ids)} images, {len(set(ids))} different ones; unpack it again")
    return ids


def _read(file: Path) -> bytes:
    try:
        if file.stat().st_size > _MAX_XML_BYTES:
            raise SourceError(f"{file} has {file.stat().st_size:,} bytes, allowed: {_MAX_XML_BYTES:,}; unpack it again")
        return file.read_bytes()
    except OSError as error:
        raise SourceError(f"{file} cannot be read ({error.strerror}); unpack the archive again") from error


def read_annotation(content: bytes, file: Path) -> RawObjects:
    """Size and objects of an image; SourceError for what is no annotation. Objects of no class are left out by name."""
    try:
        if b"<!DOCTYPE" in content or b"\0" in content:  # where entities could be defined that fill the memory
            raise ValueError("it has a document type, or is no UTF-8")
        document = ElementTree.fromstring(content)  # noqa: S314, see above
        height, width = (_number(document, f"size/{name}") for name in ("height", "width"))
        if not (0 < height < 2**16 and 0 < width < 2**16):
            raise ValueError(f"its size is {width:g} x {height:g}")
        found, left_out = [], []
        for one in document.findall("object"):
            name = (one.findtext("name") or "").strip()
            if name not in CLASSES:
                left_out.append(f"{name[:40]!r} is none of the 20 classes")
                continue
            left, top, right, bottom = (_number(one, f"bndbox/{c}") for c in ("xmin", "ymin", "xmax", "ymax"))
            flags = DIFFICULT if (one.findtext("difficult") or "0").strip() == "1" else 0
            box = (left - 1, top - 1, right, bottom)
            found.append((box, (right - left + 1) * (bottom - top + 1), CLASSES.index(name), flags))
    except (ElementTree.ParseError, ValueError, OverflowError) as error:
        raise SourceError(f"{file} is no annotation of VOC ({error}); unpack the archive again") from error
    return RawObjects(int(height), int(width), np.array(found, OBJECT), None, tuple(left_out))


def _number(element: ElementTree.Element, path: str) -> float:
    text = (element.findtext(path) or "").strip()
    try:
        return float(text)
    except ValueError as error:
        raise ValueError(f"{path} is {text[:40]!r}, allowed: a number") from error
