"""Own images, however they lie there: the room that reads them is told by what `--root` is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from dataprep.sources import class_folders, file_list, parquet_table, tar_shards
from dataprep.writing.raw_source import Source, SourceError

FORMS = (
    "a folder of images or of class folders, a list of files (.csv, .tsv), tar shards (one .tar, a folder of them, "
    "or shard-{000..011}.tar), or a .parquet file or a folder of them"
)


def open_splits(root: Path, split: str | None, unlabelled: bool = False) -> list[Source]:
    """The images below a root: one source, or one for each split that a list or folders name, unless `split` is given.

    A folder is read as `root/split` where a split is given. SourceError says what was expected.
    """
    if root.suffix in file_list.SUFFIXES:
        sources = _wanted(file_list.open_splits(_existing(root)), root, split)
    elif shards := tar_shards.expanded(root):
        sources = [tar_shards.open_shards(root.parent, shards, split or "")]
    elif root.suffix == tar_shards.SUFFIX:
        sources = [tar_shards.open_shards(root, [_existing(root)], split or "")]
    elif root.suffix == parquet_table.SUFFIX:
        sources = [parquet_table.open_table(root, [_existing(root)], split or "")]
    elif not split and root.is_dir() and (parts := class_folders.split_folders(root)):
        sources = [replace(_open_folder(root, part, unlabelled), split=name) for part, name in parts.items()]
    else:
        sources = [_open_folder(root, split, unlabelled)]
    return [source.without_labels() for source in sources] if unlabelled else sources


def _open_folder(root: Path, split: str | None, unlabelled: bool) -> Source:
    if root.is_file():
        raise SourceError(f"--root {root} is a file of another kind, allowed: {FORMS}")
    base = root / split if split else root
    if base.is_dir():
        for suffix, room in (
            (tar_shards.SUFFIX, tar_shards.open_shards),
            (parquet_table.SUFFIX, parquet_table.open_table),
        ):
            files = sorted(path for path in base.iterdir() if path.suffix == suffix and not path.name.startswith("."))
            if files:
                return room(base, files, split or "")
    return class_folders.images(root, split) if unlabelled else class_folders.folder(root, split)


def _existing(file: Path) -> Path:
    if not file.is_file():
        raise SourceError(f"--root {file}: no such file; expected {FORMS}")
    return file


def _wanted(sources: list[Source], root: Path, split: str | None) -> list[Source]:
    found = [source for source in sources if split is None or source.split == split]
    if not found:
        names = ", ".join(source.split or "none" for source in sources)
        raise SourceError(f"--split is {split!r}, but {root} has the splits {names}")
    return found
