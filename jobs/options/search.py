"""Options of jobs/search.py."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from jobs.planning.command_line import read_command
from jobs.planning.image_sets import require_there
from jobs.planning.run_folder import read_finished
from vicreg.checked import require
from vicreg.one_branch import branch

MAX_QUERIES, MAX_NEIGHBOURS = 100, 50  # what a page holds


@dataclass(frozen=True)
class Command:
    """Print the images of a gallery that are nearest to each query, and write a page that shows them."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder of jobs/pretrain.py or jobs/import_encoder.py."""
    gallery: Path
    """A file of jobs/embed.py, or images: a beton, a folder, a list, tar shards, parquet. Those are embedded first, on
    this machine, and their features kept in the run folder."""
    query: tuple[Path, ...]
    """Images to look for."""
    neighbours: int = 8
    """How many are shown of each, by the cosine of their features."""
    out: Path | None = None
    """Page to write; RUN/search.html if none is given."""
    layer: str = ""
    """Layer whose output is compared, as in jobs/embed.py; of a file of features its own."""
    encoder: str = ""
    """Which of the run's encoders, where it has several."""
    split: str = ""
    """Part of a folder or list that has several."""


def parse(arguments: list[str]) -> Command:
    """The command line; ValueError for what can be known to be impossible before anything is computed."""
    command = read_command(Command, arguments)
    query, neighbours, out = command.query, command.neighbours, command.out
    require(1 <= len(query) <= MAX_QUERIES, "query", f"{len(query)} images", f"1 to {MAX_QUERIES}")
    require(1 <= neighbours <= MAX_NEIGHBOURS, "neighbours", neighbours, f"1 to {MAX_NEIGHBOURS}")
    require(out is None or out.suffix == ".html", "out", str(out), "a name that ends in .html")
    config, _ = read_finished(command.run)
    branch(config.model, command.encoder)  # raises what it objects to
    require_there(command.gallery)
    for path in query:
        if not path.is_file():
            raise ValueError(f"query is {path}, allowed: files of images; there is no such file")
    return command
