"""Images with captions: COCO's by Karpathy's splits, or a table of images and captions as Flickr8k has it.

COCO: `annotations/captions_{train,val}2014.json` (`images` with id and file_name, `annotations` with image_id and
caption), the folders of images, and Karpathy's `dataset_coco.json` (`images` with filename, filepath, cocoid, split).
A table: `captions.txt` or `captions.csv`, below a line `image,caption` a line for each caption; `images/` or `Images/`.
"""

from __future__ import annotations

import csv
import logging
import zlib
from pathlib import Path
from typing import TypedDict

import numpy as np

from border.documents import Unreadable, parse_json
from border.text import visible
from dataprep.beton.keyed_choice import permutation
from dataprep.writing.raw_captions import usable_captions
from dataprep.writing.raw_source import Source, SourceError, existing_folder, listed_files, require_split

logger = logging.getLogger(__name__)

SPLIT_FILE = "dataset_coco.json"
TABLES = ("captions.txt", "captions.csv")
FOLDERS = ("images", "Images")
HEAD = ["image", "caption"]
SUFFIXES = (".jpg", ".jpeg", ".png")


class _Image(TypedDict):
    id: int


class _Annotation(TypedDict):
    image_id: int
    caption: str


class _Captions(TypedDict):
    images: list[_Image]
    annotations: list[_Annotation]


class _Chosen(TypedDict):
    filename: str
    filepath: str
    cocoid: int
    split: str


class _Splits(TypedDict):
    images: list[_Chosen]


def open_splits(root: Path, split: str | None, restval: bool, num_val: int, seed: int) -> list[Source]:
    """The splits that are asked for, all where none is; SourceError says what is missing or wrong."""
    root = existing_folder(root)
    if (root / SPLIT_FILE).is_file():
        if num_val:
            raise SourceError(f"--num-val is {num_val}, but {root / SPLIT_FILE} has splits of its own; leave it out")
        return _coco(root, split, restval)
    table = next((root / name for name in TABLES if (root / name).is_file()), None)
    folder = next((root / name for name in FOLDERS if (root / name).is_dir()), None)
    if table is None or folder is None:
        raise SourceError(f"{root} has neither {SPLIT_FILE} nor {TABLES[0]} beside a folder {FOLDERS[0]}; see --help")
    return _of_table(root, table, folder.name, split, num_val, seed)


def _coco(root: Path, split: str | None, restval: bool) -> list[Source]:
    allowed = ("train", "val", "test")
    if split is not None:
        require_split(split, allowed)
    try:
        chosen = parse_json((root / SPLIT_FILE).read_bytes(), _Splits)["images"]
    except Unreadable as error:
        raise SourceError(f"{root / SPLIT_FILE} is no list of splits ({error}); get it again") from error
    captions: dict[int, list[str]] = {}
    crc, strays = 0, []
    for part in ("train", "val"):
        path = root / "annotations" / f"captions_{part}2014.json"
        if not path.is_file():
            raise SourceError(f"{path} is missing; unpack annotations_trainval2014.zip in {root}")
        content = path.read_bytes()
        crc = zlib.crc32(content, crc)
        try:
            document = parse_json(content, _Captions)
        except Unreadable as error:
            raise SourceError(f"{path} is no list of captions ({error}); unpack it again") from error
        known = {image["id"] for image in document["images"]}
        for one in document["annotations"]:
            captions.setdefault(one["image_id"], []).append(one["caption"])
            strays += [] if one["image_id"] in known else [one["image_id"]]
    _say_strays(root, [str(number) for number in strays])
    names = {"train": ("train", "restval") if restval else ("train",), "val": ("val",), "test": ("test",)}
    found = []
    for name in allowed if split is None else (split,):
        images = [one for one in chosen if one["split"] in names[name]]
        if not images:
            raise SourceError(f"{root / SPLIT_FILE} has no image of split {name!r}; get it again")
        paths = [f"{one['filepath']}/{one['filename']}" for one in images]
        texts = [captions.get(one["cocoid"], []) for one in images]
        found.append(_source(root, root / SPLIT_FILE, name, paths, texts, crc))
    return found


def _of_table(root: Path, table: Path, folder: str, split: str | None, num_val: int, seed: int) -> list[Source]:
    content = table.read_bytes()
    captions: dict[str, list[str]] = {}
    for number, row in _rows(table, content):
        if len(row) != len(HEAD) or not row[0].strip():
            shown = visible(",".join(row)[:80])
            raise SourceError(f"{table}: line {number} is {shown}, expected an image and a caption; quote commas")
        captions.setdefault(row[0].strip(), []).append(row[1])
    there = {path.name for path in (root / folder).iterdir() if path.suffix.lower() in SUFFIXES}
    if not there & captions.keys():
        raise SourceError(f"{table} speaks of none of the {len(there):,} images in {root / folder}; get both again")
    _say_strays(root, sorted(captions.keys() - there))
    names = sorted(there)
    if not 0 <= num_val < len(names):
        raise SourceError(f"--num-val is {num_val}, allowed: 0 to {len(names) - 1:,} of the {len(names):,} images")
    held_out = set(permutation(len(names), seed)[:num_val].tolist())
    parts = {"train": [name for number, name in enumerate(names) if number not in held_out]}
    if num_val:
        parts["val"] = [names[number] for number in sorted(held_out)]
    if split is not None:
        require_split(split, tuple(parts))
    return [
        _source(
            root,
            table,
            name,
            [f"{folder}/{one}" for one in part],
            [captions.get(one, []) for one in part],
            zlib.crc32(content),
        )
        for name, part in parts.items()
        if split in (None, name)
    ]


def _rows(table: Path, content: bytes) -> list[tuple[int, list[str]]]:
    """Line numbers and fields below the head; what is no UTF-8 is kept as surrogates, for each caption to be named."""
    text = content.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape")
    reader = csv.reader(text.splitlines(keepends=True), strict=True)
    try:
        rows = [(reader.line_num, row) for row in reader if row]
    except csv.Error as error:
        raise SourceError(f"{table}: line {reader.line_num} is no line of a table ({error}); quote it") from error
    if not rows or [field.strip().lower() for field in rows[0][1]] != HEAD:
        raise SourceError(f"{table} does not begin with a line {','.join(HEAD)}; add it")
    return rows[1:]


def _say_strays(root: Path, strays: list[str]) -> None:
    if strays:
        number = f"{len(strays):,} of the captions' images are" if len(strays) > 1 else "an image of the captions is"
        logger.warning("warning: %s: %s not there, such as %s: left out", root, number, visible(strays[0]))


def _source(root: Path, listing: Path, split: str, paths: list[str], texts: list[list[str]], crc: int) -> Source:
    return Source(
        name="captions",
        root=str(root),
        split=split,
        classes=(),
        labels=np.zeros(len(paths), np.int64),
        relative_path=paths.__getitem__,
        content=listed_files(root, paths, listing),
        annotations_crc32=crc,
        captions=lambda sample: usable_captions(texts[sample]),
    )
