"""Images that a command is given, however they lie there, as a beton: as it is, or written in a work folder.

Whatever `write_ffcv.py folder` reads does: a folder, a list of files, tar shards, parquet.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dataprep.beton.contract import BetonError, manifest_path
from dataprep.console import show_progress
from dataprep.sources import anywhere
from dataprep.writing.raw_source import Source, SourceError, first_format
from dataprep.writing.write_plan import WritePlan
from dataprep.writing.writer import WriteError, already_written, write_beton

BETON = ".beton"
WORK_FOLDER = "images"  # in a run folder


@dataclass(frozen=True)
class ImageSet:
    """Images by where they are, in JSON-able words, so that a job finds the same."""

    given: str
    """Absolute."""
    work_folder: str
    """Where a beton is written of what is none."""
    split: str = ""
    unlabelled: bool = False
    channels: int = 0
    """That the run's encoder takes, where they are no RGB."""

    @property
    def is_beton(self) -> bool:
        """Whether nothing need be written."""
        return self.given.endswith(BETON)

    @property
    def beton(self) -> Path:
        """The images as they are read."""
        if self.is_beton:
            return Path(self.given)
        return Path(self.work_folder) / f"{digest(self.given, self.split, self.unlabelled)}{BETON}"

    @classmethod
    def of(cls, images: Path, run: Path, split: str = "", unlabelled: bool = False, channels: int = 0) -> ImageSet:
        """Of what is there (`require_there`); ValueError where that is no images."""
        given = cls(str(images.absolute()), str(run / WORK_FOLDER), split, unlabelled, channels)
        if not given.is_beton:
            given.source()
        elif split or unlabelled:
            option = "--split" if split else "--unlabelled"
            raise ValueError(f"{option} is for folders and lists of images; a beton such as {images} is taken whole")
        return given

    def source(self) -> Source:
        """The raw images, of one split; ValueError with the splits to choose from otherwise."""
        root = Path(self.given)
        try:
            sources = anywhere.open_splits(root, self.split or None, self.unlabelled)
        except SourceError as error:
            raise ValueError(str(error).replace("--root ", "")) from error
        if len(sources) > 1:
            names = ", ".join(source.split for source in sources)
            raise ValueError(f"{root} has several parts, {names}; choose one with --split")
        return sources[0]

    def write(self, say: Callable[[str], None]) -> None:
        """Make the beton, unless it is there of the same files. ValueError where it cannot be made."""
        source = self.source()
        plan = WritePlan(write_mode=source.default_write_mode)
        pixels, _ = first_format(source, self.channels or None, plan.max_pixels)
        if not pixels.is_rgb:
            plan = WritePlan(write_mode="raw", channels=pixels.channels, bits=pixels.bits)
        try:
            if already_written(source, self.beton, plan):
                return
        except BetonError:  # of files that were there before, or not whole
            pass
        try:
            with show_progress(self.beton.name) as report:
                done = write_beton(source, self.beton, plan, report=report)
        except WriteError as error:
            raise ValueError(str(error)) from error
        kept = f"{self.beton} has {done.num_total - len(done.rejected):,} images, kept for the next time"
        lost = f"; {len(done.rejected):,} could not be used, see {manifest_path(self.beton)}" if done.rejected else ""
        say(kept + lost)


def require_there(images: Path) -> None:
    """ValueError where there are no images, before anything is read of them."""
    is_pattern = "{" in images.name  # shard-{000..011}.tar
    if not (images.is_file() if images.suffix == BETON else is_pattern or images.exists()):
        raise ValueError(f"{images}: no such file; allowed: a beton, or {anywhere.FORMS}")


def digest(*words: Any) -> str:
    """A short name for what these words say."""
    return hashlib.sha256("\0".join(map(str, words)).encode("utf-8", "surrogateescape")).hexdigest()[:10]
