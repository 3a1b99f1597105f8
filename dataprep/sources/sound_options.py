"""What a user can say of a write of sound: the options of its sources. Their texts are the help, as in options.py."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dataprep.sources import audio, tones
from dataprep.sources.options import OnDisk, Output
from dataprep.writing.raw_source import Source, SourceError


@dataclass(frozen=True, kw_only=True)
class Audio(Output, OnDisk):
    """Sound: ESC-50, a folder of WAV, FLAC or OGG files per class, or files whose names say their class."""

    root: Path
    """ESC-50's folder (audio/ and meta/esc50.csv), or a folder with one folder per class,
    or with --pattern any folder of files."""
    split: str | None = None
    """Subfolder of the root; names the beton.
    Default: the root itself, as train, or as train and val where some of it is held out."""
    rate_hz: int = 44_100
    """Samples per second that are kept; files of other rates are resampled."""
    clip_seconds: float = 5.0
    """Length of every clip: the middle of longer files; shorter ones stand in the middle of silence."""
    pattern: str = ""
    """Regular expression to find in each file's path, with (?P<label>...) for its class
    and perhaps (?P<fold>...) and (?P<recording>...). Files in which it is not found are left out."""
    fold: int = 0
    """Hold out this fold as val.beton; 0: none."""
    hold_out: str = ""
    """Hold out the files in whose path this regular expression is found, as val.beton."""

    def open_source(self) -> Source:
        (source,) = self.open_sources()
        return source

    def open_sources(self) -> list[Source]:
        for name in ("write_mode", "max_resolution", "channels"):
            if getattr(self, name) is not None:
                raise SourceError(f"--{name.replace('_', '-')} is of images; leave it out for sound")
        layout = audio.Layout(self.rate_hz, self.clip_seconds, self.pattern, self.fold, self.hold_out)
        return audio.open_splits(self.root, self.split, layout)


@dataclass(frozen=True, kw_only=True)
class Tones(Output):
    """Melodies of three notes in 8 classes, a second each, made by this project; nothing to download."""

    split: str = "train"
    """train (640 clips) or val (160)."""

    def open_source(self) -> Source:
        return tones.open_split(self.split)
