"""Raw images or sound to a beton (imagenet ... audio), a part to train on (subset), looks at one (verify, info)."""

from __future__ import annotations

import logging
import shutil
import signal
import sys
import textwrap
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Annotated, get_args

if __name__ == "__main__":  # the tree that this file stands in, whatever is installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import tyro

from border.help_texts import HELP, join_lines
from border.terminal import complain, log_to, say, typed
from border.text import did_you_mean, program, visible
from border.typed_numbers import NUMBERS
from dataprep.beton.contract import BetonError, manifest_path, open_beton
from dataprep.console import describe, show_progress, show_summary, show_verification
from dataprep.sources import options as source_options
from dataprep.sources import published, sound_options
from dataprep.writing.raw_source import Source, SourceError, doubts, first_format
from dataprep.writing.subset_choice import write_drawn, write_listed
from dataprep.writing.write_plan import WritePlan
from dataprep.writing.writer import WriteError, already_written, write_beton
from disk.closed_pipe import quietly

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Subset:
    """Choose samples of a beton for training with few labels; written beside it as <split>.<name>.json."""

    file: tyro.conf.Positional[Path]
    """The beton."""
    name: str
    """Name of the subset; simclr-1percent and simclr-10percent are ImageNet's published ones."""
    list: Path | None = None
    """Text file with a file name per line: 1percent.txt or 10percent.txt of SimCLR's imagenet_subsets/."""
    allow_other_list: bool = False
    """Take a list that is none of the published ones, too."""
    fraction: float | None = None
    """Instead of a list: draw this share of each class, at least one sample."""
    seed: int = 0
    """Seed of the draw. A smaller fraction with the same seed gives a part of a larger one's samples."""
    overwrite: bool = False
    """Replace a subset of this name."""


@dataclass(frozen=True)
class Verify:
    """Check header, allocation table, size, every checksum and every JPEG header of a beton."""

    file: tyro.conf.Positional[Path]
    """The beton."""
    decode: bool = False
    """Also read every JPEG to its last Huffman code, as is done when writing."""


@dataclass(frozen=True)
class Info:
    """Print what a beton is."""

    file: tyro.conf.Positional[Path]
    """The beton."""


Command = (
    Annotated[source_options.Imagenet, tyro.conf.subcommand("imagenet")]
    | Annotated[source_options.Places205, tyro.conf.subcommand("places205")]
    | Annotated[source_options.Voc07, tyro.conf.subcommand("voc07")]
    | Annotated[source_options.VocDetection, tyro.conf.subcommand("voc-detection")]
    | Annotated[source_options.CocoDetection, tyro.conf.subcommand("coco-detection")]
    | Annotated[source_options.VocSegmentation, tyro.conf.subcommand("voc-segmentation")]
    | Annotated[source_options.Ade20k, tyro.conf.subcommand("ade20k")]
    | Annotated[source_options.Captions, tyro.conf.subcommand("captions")]
    | Annotated[source_options.Inat18, tyro.conf.subcommand("inat18")]
    | Annotated[source_options.Cifar10, tyro.conf.subcommand("cifar10")]
    | Annotated[source_options.Digits, tyro.conf.subcommand("digits")]
    | Annotated[source_options.Folder, tyro.conf.subcommand("folder")]
    | Annotated[sound_options.Audio, tyro.conf.subcommand("audio")]
    | Annotated[sound_options.Tones, tyro.conf.subcommand("tones")]
    | Annotated[Subset, tyro.conf.subcommand("subset")]
    | Annotated[Verify, tyro.conf.subcommand("verify")]
    | Annotated[Info, tyro.conf.subcommand("info")]
)


NAMES = tuple(get_args(part)[1].name for part in get_args(Command))
"""What may stand first on the command line."""


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


def write(command: source_options.Output) -> int:
    """Write the betons of a command; returns the exit code."""
    for source in command.open_sources():
        _write_one(command, source)
    return 0


def _write_one(command: source_options.Output, source: Source) -> None:
    differences = published.differences(source)
    if differences and not command.allow_partial:
        cure = "get what is missing, or add --allow-partial to write what is there"
        raise SourceError(f"{'; '.join(differences)}; {cure}")
    for doubt in (*differences, *doubts(source)):
        logger.warning("warning: %s", doubt)
    if source.more_fields and source.captions is None and command.max_resolution:
        raise SourceError("--max-resolution shrinks images, whose boxes and masks would no longer fit; leave it out")
    plan = _plan(command, source)
    target = command.out / f"{source.split or Path(source.root).name}.beton"
    if not command.overwrite and already_written(source, target, plan):
        say(f"{target} is already there, from the same source with the same options (--overwrite writes it again)")
        return
    with show_progress(target.name) as report:
        done = write_beton(source, target, plan, num_workers=command.num_workers, on_bad=command.on_bad, report=report)
    show_summary(done, target, manifest_path(target))


def _plan(command: source_options.Output, source: Source) -> WritePlan:
    """What the options of a command come to for its source."""
    plan = WritePlan(
        write_mode="raw",
        max_resolution=command.max_resolution,
        quality=command.quality,
        jpg_proportion=command.jpg_proportion,
        max_pixels=command.max_pixels,
        limit=command.limit,
        shuffle_seed=command.shuffle_seed,
    )
    if source.clips is not None:
        return replace(plan, rate_hz=source.clips.rate_hz, clip_seconds=source.clips.seconds)
    pixels, note = first_format(source, command.channels, command.max_pixels)
    if note:
        logger.warning("warning: %s", note)
    if not pixels.is_rgb:
        return replace(plan, write_mode=command.write_mode or "raw", channels=pixels.channels, bits=pixels.bits)
    return replace(plan, write_mode=command.write_mode or source.default_write_mode)


def choose_subset(command: Subset) -> int:
    """Write one subset; returns the exit code."""
    if (command.list is None) == (command.fraction is None):
        raise ValueError("say how to choose: --list FILE, or --fraction SHARE with --seed NUMBER")
    if command.list is not None:
        path, size = write_listed(
            command.file,
            command.name,
            command.list,
            allow_other=command.allow_other_list,
            overwrite=command.overwrite,
        )
    else:
        assert command.fraction is not None
        path, size = write_drawn(
            command.file, command.name, command.fraction, command.seed, overwrite=command.overwrite
        )
    say(f"{path}: {size:,} of {open_beton(command.file).num_samples:,} samples")
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Run one command; user errors become one line on stderr and exit code 1 (2 for the command line itself)."""
    return quietly(lambda: _run(arguments))


def unknown(word: str) -> str:
    """What is said of a word that names no source, on as many lines as it takes."""
    said = f"error: there is no source '{visible(word)}'{did_you_mean(word, NAMES)}, allowed: {', '.join(NAMES)}"
    return textwrap.fill(said, shutil.get_terminal_size().columns, subsequent_indent="  ", break_on_hyphens=False)


def _run(arguments: list[str] | None) -> int:
    log_to({logging.StreamHandler(): "%(message)s"})
    words = sys.argv[1:] if arguments is None else arguments
    if words and not words[0].startswith("-") and words[0] not in NAMES:  # tyro would say what each option of all is
        complain(unknown(words[0]))
        return 2
    if HELP & set(words):
        join_lines(Command)
    config, prog = (tyro.conf.FlagCreatePairsOff,), program("dataprep/write_ffcv.py")
    command = tyro.cli(Command, args=arguments, prog=prog, description=__doc__, config=config, registry=NUMBERS)
    for number in _SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:  # nohup and shells ignore some on purpose
            signal.signal(number, _stop)
    try:
        if isinstance(command, Verify):
            return show_verification(command.file, command.decode)
        if isinstance(command, Info):
            describe(command.file)
            return 0
        if isinstance(command, Subset):
            return choose_subset(command)
        return write(command)
    except (SourceError, BetonError, WriteError, ValueError) as error:
        complain(f"error: {error}")
        return 1
    except Stopped as stop:
        complain(f"stopped by {stop}; no unfinished file was left")
        return 128 + stop.number


def script() -> int:
    """The command as it is typed."""
    return typed(main)


if __name__ == "__main__":
    sys.exit(script())
