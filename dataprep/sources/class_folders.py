"""Raw data sets in class folders, each as a list of samples: where its content is, its label, its path in the source.

`folder` (any class-per-folder tree), `imagenet` (class folders, or the official tars read in place: imagenet_tars.py),
`cifar10` (class folders, or the python batches: cifar10_batches.py). A class's index is its place among the sorted
class names. Whatever is missing, the error says what was expected where. Data sets that come with lists of their files
are rooms of their own: places205.py, voc07.py, inat18.py.
"""

from __future__ import annotations

import logging
import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np

from dataprep.sources import cifar10_batches, imagenet_tars
from dataprep.writing.raw_source import Source, SourceError, existing_folder, require_split
from dataprep.writing.sample_encoding import FilePart

logger = logging.getLogger(__name__)

_SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "trainval": "trainval",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
"""Usual names of folders that are parts of a data set, not classes, and what their betons are called."""
_NAMES_SHOWN = 10
_WNID = re.compile(r"n\d{8}")


def folder(root: Path, split: str | None = None, name: str = "folder") -> Source:
    """A class-per-folder tree: `root/[split/]<class>/**`, every file that is not hidden, sorted by class and path."""
    root = existing_folder(root)
    base = root / split if split else root
    if split and not base.is_dir():
        found = ", ".join(sorted(entry.name for entry in root.iterdir() if entry.is_dir())[:10]) or "no folders"
        raise SourceError(f"--split is {split!r}, but {base} is no folder; {root} holds: {found}")
    classes, strays = _subfolders(base)
    if not classes and strays:
        logger.info("%s holds no folders: its images have no labels", base)
        return images(root, split, name)
    if not classes:
        raise SourceError(f"{base} holds no images; expected: {base}/<class>/<image files>, or images without labels")
    if not split and split_names(classes):
        raise SourceError(f"{base} holds splits ({', '.join(classes)}), not classes; add --split {classes[0]}")
    if strays:
        logger.warning("%s: %d files outside the class folders are left out", base, strays)
    paths: list[str] = []
    counts, without_files = [], []
    for class_name in classes:
        before = len(paths)
        _list_files(base, class_name, paths)
        counts.append(len(paths) - before)
        if counts[-1] and all(path.count("/") > 1 for path in paths[before:]):
            without_files.append(class_name)
    empty = [class_name for class_name, count in zip(classes, counts, strict=True) if count == 0]
    if empty:
        shown = ", ".join(empty[:_NAMES_SHOWN])
        raise SourceError(f"{len(empty)} class folders in {base} hold no files: {shown}; fill them or remove them")
    if without_files:
        shown = ", ".join(without_files[:_NAMES_SHOWN])
        what = "hold only folders; if those are the classes, give their parent as --root, or add --split"
        logger.warning("warning: %d of %d classes in %s %s: %s", len(without_files), len(classes), base, what, shown)
    prefix = str(base)
    return Source(
        name=name,
        root=str(root),
        split=split or "",
        classes=tuple(classes),
        labels=np.repeat(np.arange(len(classes), dtype=np.int64), counts),
        relative_path=paths.__getitem__,
        content=lambda sample: FilePart(os.path.join(prefix, paths[sample])),
    )


def split_folders(root: Path) -> dict[str, str]:
    """What the beton of each folder in the root is called, where all of them are parts of a data set; else nothing."""
    return split_names([entry.name for entry in _visible(root) if entry.is_dir()])


def split_names(folders: list[str]) -> dict[str, str]:
    """`split_folders` of these names."""
    found = {folder: _SPLIT_NAMES.get(folder.lower(), "") for folder in folders}
    return found if all(found.values()) and len(set(found.values())) == len(found) else {}


def images(root: Path, split: str | None = None, name: str = "folder") -> Source:
    """Every file below `root/[split/]` that is not hidden, in folders or not, sorted by path; without labels."""
    root = existing_folder(root)
    base = existing_folder(root / split) if split else root
    paths: list[str] = []
    _list_files(base, "", paths)
    if not paths:
        raise SourceError(f"{base} holds no files; expected images, in folders or not")
    prefix = str(base)
    return Source(
        name=name,
        root=str(root),
        split=split or "",
        classes=(),
        labels=np.zeros(len(paths), np.int64),
        relative_path=paths.__getitem__,
        content=lambda sample: FilePart(os.path.join(prefix, paths[sample])),
    )


def imagenet(root: Path, split: str) -> Source:
    """ImageNet-1k: `root/<split>/<wnid>/*`, else the official tars and, for val, the devkit."""
    root = existing_folder(root)
    require_split(split, ("train", "val"))
    if not (root / split).is_dir():
        return imagenet_tars.open_split(root, split)
    classes, _ = _subfolders(root / split)
    strange = [name for name in classes if not _WNID.fullmatch(name)]
    if strange or not classes:
        found = f"found {', '.join(strange[:5])}" if strange else "found none"
        raise SourceError(
            f"{root / split} must hold one folder per class, named like n01440764 ({found}); "
            f"for the official tars put {imagenet_tars.TAR_NAMES[split]} into {root} and remove {root / split}; "
            "for folders with other names use the source `folder`"
        )
    return folder(root, split, name="imagenet")


def cifar10(root: Path, split: str) -> Source:
    """CIFAR-10 as class folders `root/<split>/<class>/*`, else as the python batches; `val` is the test set."""
    root = existing_folder(root)
    require_split(split, ("train", "test", "val"))
    for folder_name in (split, "test") if split == "val" else (split,):
        if (root / folder_name).is_dir():
            tree = folder(root, folder_name, name="cifar10")
            if len(tree.classes) != 10:
                raise SourceError(f"{root / folder_name} holds {len(tree.classes)} class folders, CIFAR-10 has 10")
            return replace(tree, split=split)
    return cifar10_batches.open_split(root, split)


def _subfolders(base: Path) -> tuple[list[str], int]:
    """Sorted names of the folders in a folder, and how many other entries it has; hidden ones do not count."""
    kinds = [(entry.name, _is_class(base, entry)) for entry in _visible(base)]
    return [name for name, is_dir in kinds if is_dir], sum(not is_dir for _, is_dir in kinds)


def _is_class(base: Path, entry: os.DirEntry[str]) -> bool:
    """Is it a folder, or a link to one elsewhere? One that leads back above the classes would hold all of them."""
    if not entry.is_symlink():
        return entry.is_dir()
    target = Path(os.path.realpath(entry.path))
    is_circle = not os.path.exists(target) or base.resolve().is_relative_to(target)
    if is_circle:
        logger.warning("%s: link to nothing, to itself or to a folder that it lies in, left out", entry.path)
    return not is_circle and target.is_dir()


def _visible(folder: Path) -> list[os.DirEntry[str]]:
    """What a folder holds, sorted by name, without what is hidden."""
    try:
        with os.scandir(folder) as entries:
            return sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)
    except OSError as error:
        raise SourceError(f"{folder} cannot be listed ({error.strerror}); make it readable or remove it") from error


def _list_files(base: Path, relative: str, paths: list[str]) -> None:
    """Append the files under `base/relative`, depth first in sorted order, as paths relative to `base`."""
    for entry in _visible(base / relative):
        path = f"{relative}/{entry.name}" if relative else entry.name
        if entry.is_dir(follow_symlinks=False):
            _list_files(base, path, paths)
        elif entry.is_symlink() and os.path.isdir(entry.path):  # inside a class it may lead in circles
            logger.warning("%s/%s: link to a folder, left out", base, path)
        elif entry.is_symlink() or entry.is_file():  # no pipes or sockets; a link to no file is rejected by name later
            paths.append(path)
