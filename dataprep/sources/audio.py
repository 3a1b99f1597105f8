"""Sound as lists of clips: ESC-50 with its folds, class folders, or files whose names say what they are.

Clips that were cut from one recording belong together: they must never stand on both sides of a comparison. ESC-50
says of each which recording it is from; of other files every one is a recording of its own, unless a pattern says more.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from border.text import visible
from dataprep.sources.class_folders import folder, images
from dataprep.sources.file_list import table_rows
from dataprep.sources.own_images import Listing, as_source
from dataprep.writing.raw_source import Clips, Source, SourceError, existing_folder, listed_files

ESC50_LIST = Path("meta/esc50.csv")
_COLUMNS = ("filename", "fold", "target", "category", "src_file")
_GROUPS = {"label", "fold", "recording"}


@dataclass(frozen=True)
class Layout:
    """How sound lies in a folder, and how it is stored."""

    rate_hz: int
    seconds: float
    pattern: str = ""
    """Regular expression with the group `label`, and perhaps `fold` and `recording`, to find in each file's path."""
    fold: int = 0
    """Which fold is held out; 0: none."""
    hold_out: str = ""
    """Regular expression to find in the paths of what is held out."""


def open_splits(root: Path, split: str | None, layout: Layout) -> list[Source]:
    """One source of all clips, or `train` and `val` where some are held out; SourceError says what is wrong."""
    root = existing_folder(root)
    base = root / split if split else root
    if layout.pattern:
        source = _by_names(root, split, layout)
    elif (base / ESC50_LIST).is_file():
        source = _esc50(base, layout)
    else:
        tree = folder(root, split, name="audio")
        source = _with_clips(tree, [""] * len(tree), np.zeros(len(tree), np.int64), layout)
    source = replace(source, split=source.split or "train")
    return _held_out(source, layout) if layout.fold or layout.hold_out else [source]


def _esc50(root: Path, layout: Layout) -> Source:
    """`audio/*.wav` as `meta/esc50.csv` lists them (github.com/karolpiczak/ESC-50)."""
    place = root / ESC50_LIST
    try:
        (_, head), *lines = table_rows(place) or [(0, [""])]
        if not lines or not {*_COLUMNS} <= {*head}:
            raise ValueError(f"needs lines with the columns {', '.join(_COLUMNS)}")
        rows = [dict(zip(head, fields, strict=True)) for _, fields in lines]
        names: dict[int, str] = {}
        for row in rows:
            if names.setdefault(int(row["target"]), row["category"]) != row["category"]:
                raise ValueError(f"target {row['target']} is {names[int(row['target'])]} and {row['category']}")
        if sorted(names) != list(range(len(names))):
            raise ValueError(f"its targets are {sorted(names)}, allowed: 0 and the numbers that follow")
        labels = np.array([int(row["target"]) for row in rows], np.int64)
        folds = np.array([int(row["fold"]) for row in rows], np.int64)
    except (OSError, ValueError, OverflowError) as error:
        raise SourceError(f"{place}: no list as ESC-50 has it ({error}); get it again") from error
    paths = [f"audio/{row['filename']}" for row in rows]
    source = Source(
        name="esc50",
        root=str(root),
        split="",
        classes=tuple(names[number] for number in range(len(names))),
        labels=labels,
        relative_path=paths.__getitem__,
        content=listed_files(root, paths, ESC50_LIST),
    )
    return _with_clips(source, [row["src_file"] for row in rows], folds, layout)


def _by_names(root: Path, split: str | None, layout: Layout) -> Source:
    """Files whose paths say their label."""
    pattern = _compiled("--pattern", layout.pattern)
    groups = set(pattern.groupindex)
    if "label" not in groups or not groups <= _GROUPS:
        raise SourceError(f"--pattern {layout.pattern!r} has the groups {sorted(groups)}, needed: (?P<label>...), "
                          "allowed beside it: (?P<fold>...) and (?P<recording>...)")  # fmt: skip
    tree = images(root, split, "audio")
    paths = [tree.relative_path(sample) for sample in range(len(tree))]
    found = [(path, match) for path in paths if (match := pattern.search(path))]
    if not found:
        raise SourceError(f"--pattern {layout.pattern!r} is found in none of {len(paths):,} files, such as {paths[0]}")
    base = root / split if split else root
    kept = [path for path, _ in found]
    listing = Listing(kept, [match["label"] for _, match in found])
    content = listed_files(base, kept, Path("--pattern"))
    source = as_source("audio", root, split or "", listing, content)
    recordings = [match["recording"] if "recording" in groups else "" for _, match in found]
    texts = [match["fold"] if "fold" in groups else "0" for _, match in found]
    if wrong := [text for text in texts if not re.fullmatch(r"[0-9]{1,18}", text or "")]:
        raise SourceError(f"--pattern finds the fold {visible(str(wrong[0]))[:80]!r}, allowed: whole numbers")
    return _with_clips(source, recordings, np.array(texts, np.int64), layout)


def _with_clips(source: Source, recordings: Sequence[str], folds: NDArray[np.int64], layout: Layout) -> Source:
    """recordings: names; one without a name is a recording of its own. Equal names have equal numbers everywhere."""
    names = [name or f"file {source.relative_path(number)}" for number, name in enumerate(recordings)]
    digests = [hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest() for name in names]
    numbers = [int.from_bytes(digest[:8], "big") >> 1 for digest in digests]
    return replace(source, clips=Clips(layout.rate_hz, layout.seconds, folds, np.array(numbers, np.int64)))


def _held_out(source: Source, layout: Layout) -> list[Source]:
    """All but what is held out as `train`, and that as `val`; no recording has clips in both."""
    assert source.clips is not None
    clips, option = source.clips, f"--fold {layout.fold}" if layout.fold else f"--hold-out {layout.hold_out!r}"
    if layout.fold and layout.hold_out:
        raise SourceError("--fold and --hold-out both say what is held out; give one")
    if layout.fold:
        is_val = clips.folds == layout.fold
        known = f"folds {', '.join(map(str, np.unique(clips.folds)))}" if clips.folds.any() else "no folds"
        allowed = f"{source.root} has {known}"
    else:
        pattern = _compiled("--hold-out", layout.hold_out)
        is_val = np.array([bool(pattern.search(source.relative_path(sample))) for sample in range(len(source))])
        allowed = f"{source.root} has files such as {source.relative_path(0)}"
    if not is_val.any() or is_val.all():
        raise SourceError(f"{option} holds out {int(is_val.sum()):,} of {len(source):,} clips; {allowed}")
    both = np.intersect1d(clips.recordings[is_val], clips.recordings[~is_val])
    if len(both):
        example = source.relative_path(int(np.argmax(clips.recordings == both[0])))
        raise SourceError(
            f"{option} divides {len(both):,} recordings, the first is that of {example}; clips of one recording must "
            "stay together"
        )
    return [_part(source, np.flatnonzero(~is_val), "train"), _part(source, np.flatnonzero(is_val), "val")]


def _part(source: Source, samples: NDArray[np.int64], split: str) -> Source:
    assert source.clips is not None
    places, clips = samples.tolist(), source.clips
    return replace(
        source,
        split=split,
        labels=source.labels[samples],
        relative_path=lambda sample: source.relative_path(places[sample]),
        content=lambda sample: source.content(places[sample]),
        clips=replace(clips, folds=clips.folds[samples], recordings=clips.recordings[samples]),
    )


def _compiled(option: str, pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise SourceError(f"{option} {pattern!r} is no regular expression ({error})") from error
