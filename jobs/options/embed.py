"""Options of jobs/embed.py."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from jobs.planning.cli import PlaceOptions
from jobs.planning.command_line import read_command
from jobs.planning.image_sets import require_there
from jobs.planning.run_folder import read_finished
from jobs.reporting import feature_file
from vicreg.one_branch import branch
from vicreg.sound_config import require_images


@dataclass(frozen=True)
class Command:
    """Write the features of images, as a finished run's encoder sees them, to a file with a row for each image."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder of jobs/pretrain.py or jobs/import_encoder.py."""
    images: Path
    """A beton, or what write_ffcv.py folder reads: a folder, a list (.csv, .tsv), tar shards, parquet."""
    out: Path
    """File to write: .parquet (columns file, label, features), .csv (file, label, f0, f1, ...), or .npy (the features
    alone; file and label of its rows lie beside it in NAME.files.csv)."""
    layer: str = ""
    """Layer whose output is taken, by its name in the encoder (layer3, blocks.11), or expander; empty: the encoder's
    features. Maps are averaged over their places, tokens over the tokens."""
    encoder: str = ""
    """Which of the run's encoders, where it has several (b: the second branch's); empty: the first."""
    split: str = ""
    """Part of a folder or list that has several."""
    unlabelled: bool = False
    """Folders are no classes."""
    overwrite: bool = False
    """Replace a file of something else."""
    place: Annotated[PlaceOptions, tyro.conf.arg(name="")] = field(default_factory=PlaceOptions)


def parse(arguments: list[str]) -> Command:
    """The command line; ValueError for what can be known to be impossible before anything is computed."""
    command = read_command(Command, arguments)
    command.place.require_possible(command.place.profile())
    config, _ = read_finished(command.run)
    require_images(config.model.sound, "jobs/embed.py")
    branch(config.model, command.encoder)  # raises what it objects to
    feature_file.require_suffix(command.out)
    require_there(command.images)
    return command
