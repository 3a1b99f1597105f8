"""Raw images to a beton (imagenet, folder, cifar10, digits), and two looks at one (verify, info)."""

from __future__ import annotations

import logging
import signal
import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Annotated, Literal

import tyro

from dataprep import sources
from dataprep.beton import BetonError, manifest_path
from dataprep.console import describe, show_progress, show_summary, show_verification
from dataprep.images import Check, WriteMode
from dataprep.raw_source import Source, SourceError
from dataprep.write_plan import WritePlan
from dataprep.writer import WriteError, already_written, write_beton


@dataclass(frozen=True, kw_only=True)
class Output(ABC):
    """Where a beton goes and how it is made."""

    out: Path
    """Folder for the beton and its manifest (<split>.beton, <split>.beton.json)."""
    write_mode: WriteMode | None = None
    """passthrough: keep a JPEG's own bytes where it needs no resize, rotation or conversion, else encode. jpg: encode
    every image. raw: pixels. proportion: JPEG for a share of the images, raw for the rest. Default: passthrough for
    files, raw for arrays (digits, CIFAR-10's python batches)."""
    max_resolution: int | None = None
    """Longest side in pixels; larger images are shrunk. Default: as they are."""
    quality: int = 90
    """JPEG quality of what is encoded, 1 to 100."""
    jpg_proportion: float = 0.5
    """Share of the images that write mode proportion stores as JPEG, 0 to 1."""
    max_pixels: int = 1 << 26
    """Images of more pixels are rejected unread (decompression bombs)."""
    check: Check = "markers"
    """How JPEGs are checked. markers: their structure, and in doubt as decode. decode: every one is parsed to its last
    Huffman code, which also finds data that ends early behind a valid end marker, at a third of the speed."""
    num_workers: int | None = None
    """Encoder processes; 0 encodes in the command's own process. Default: one per usable CPU core."""
    limit: int | None = None
    """Read this many images at most: the first ones, or with --shuffle-seed a random part."""
    shuffle_seed: int | None = None
    """Shuffle the samples with this seed. Default: the source's order."""
    on_bad: Literal["skip", "fail"] = "skip"
    """An image that cannot be used: skip leaves it out and names it in the manifest, fail stops the write."""
    overwrite: bool = False
    """Replace a beton that is already there."""

    @abstractmethod
    def open_source(self) -> Source:
        """The raw data, indexed."""


@dataclass(frozen=True, kw_only=True)
class Imagenet(Output):
    """ImageNet-1k: extracted class folders, or the official tars read in place."""

    root: Path
    """Folder with train/<wnid>/*.JPEG and val/<wnid>/*.JPEG, or with ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar
    and ILSVRC2012_devkit_t12.tar.gz."""
    split: str = "train"
    """train or val."""

    def open_source(self) -> Source:
        return sources.imagenet(self.root, self.split)


@dataclass(frozen=True, kw_only=True)
class Folder(Output):
    """Any tree with one folder per class."""

    root: Path
    """Folder with <class>/<files>, or with <split>/<class>/<files> when --split is given."""
    split: str | None = None
    """Subfolder of the root; without it the root holds the class folders and names the beton."""

    def open_source(self) -> Source:
        return sources.folder(self.root, self.split)


@dataclass(frozen=True, kw_only=True)
class Cifar10(Output):
    """CIFAR-10: the published python batches, or class folders."""

    root: Path
    """Folder with cifar-10-batches-py/ (or the batches themselves), or with train/<class>/<files> and test/..."""
    split: str = "train"
    """train, test, or val (the test set under the name that the recipes expect)."""

    def open_source(self) -> Source:
        return sources.cifar10(self.root, self.split)


@dataclass(frozen=True, kw_only=True)
class Digits(Output):
    """scikit-learn's 1,797 handwritten digits of 8 x 8 pixels; nothing to download."""

    split: str = "train"
    """train (1,437 images) or val (360)."""

    def open_source(self) -> Source:
        return sources.digits(self.split)


@dataclass(frozen=True)
class Verify:
    """Check header, allocation table, size, every checksum and every JPEG header of a beton."""

    file: tyro.conf.Positional[Path]
    """The beton."""
    decode: bool = False
    """Also parse every JPEG to its last Huffman code, as --check decode does when writing."""


@dataclass(frozen=True)
class Info:
    """Print what a beton is."""

    file: tyro.conf.Positional[Path]
    """The beton."""


Command = (
    Annotated[Imagenet, tyro.conf.subcommand("imagenet")]
    | Annotated[Folder, tyro.conf.subcommand("folder")]
    | Annotated[Cifar10, tyro.conf.subcommand("cifar10")]
    | Annotated[Digits, tyro.conf.subcommand("digits")]
    | Annotated[Verify, tyro.conf.subcommand("verify")]
    | Annotated[Info, tyro.conf.subcommand("info")]
)


class Stopped(BaseException):
    """A signal asked this process to end; unwinds like Ctrl-C, so that unfinished files are removed."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def _stop(number: int, frame: FrameType | None) -> None:
    for other in _SIGNALS:  # the second Ctrl-C must not interrupt the cleaning up after the first
        signal.signal(other, signal.SIG_IGN)
    raise Stopped(number)


def write(command: Output) -> int:
    """Write one beton; returns the exit code."""
    source = command.open_source()
    plan = WritePlan(
        write_mode=command.write_mode or source.default_write_mode,
        max_resolution=command.max_resolution,
        quality=command.quality,
        jpg_proportion=command.jpg_proportion,
        max_pixels=command.max_pixels,
        check=command.check,
        limit=command.limit,
        shuffle_seed=command.shuffle_seed,
    )
    target = command.out / f"{source.split or Path(source.root).name}.beton"
    if not command.overwrite and already_written(source, target, plan):
        print(f"{target} is already there, from the same source with the same options (--overwrite writes it again)")
        return 0
    with show_progress(target.name) as report:
        done = write_beton(source, target, plan, num_workers=command.num_workers, on_bad=command.on_bad, report=report)
    show_summary(done, target, manifest_path(target))
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Run one command; user errors become one line on stderr and exit code 1 (2 for the command line itself)."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    command = tyro.cli(Command, args=arguments, prog="write_ffcv.py", description=__doc__)
    for number in _SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:  # nohup and shells ignore some on purpose
            signal.signal(number, _stop)
    try:
        if isinstance(command, Verify):
            return show_verification(command.file, command.decode)
        if isinstance(command, Info):
            describe(command.file)
            return 0
        return write(command)
    except (SourceError, BetonError, WriteError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except Stopped as stop:
        print(f"stopped by {stop}; no unfinished file was left", file=sys.stderr)
        return 128 + stop.number


if __name__ == "__main__":
    sys.exit(main())
