"""Options of jobs/pretrain.py."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

import tyro

from jobs.planning import recipes, starting_point
from jobs.planning.cli import (
    TrainingPlace,
)
from jobs.planning.command_line import read_command
from jobs.planning.recipe_help import describe
from jobs.planning.starting_point import Notes, StartingPoint, notes_that_hold
from jobs.planning.sweeps import SweepOptions
from vicreg.config import PretrainConfig

HELP = {"--help", "-h"}
LONG_NAMES = re.compile(r"^--(stop-if|keep-best)(?=$|=)")  # options that may be given without their group


@dataclass(frozen=True)
class Command:
    """Pretrain. Options start from the recipe's values; a run folder that has a checkpoint is resumed."""

    recipe: str = "imagenet-1000ep"
    """Named run to start from; auto looks at your images (--data.train) and the machine and chooses."""
    views: Literal["recipe", "official", "paper"] = "recipe"
    """Augmentation to start from: the recipe's, the official code's asymmetric pair, or the paper's symmetric text."""
    run: str = ""
    """Run folder; runs/RECIPE if empty (in the cluster's shared folder, if its profile has one). Of a run that is
    there, alone, it goes on as it was started."""
    then_eval: bool = False
    """Go on with the recipe's evaluations and the report."""
    set: tuple[str, ...] = ()
    """With --then-eval, settings of evaluations, as of jobs/eval_all.py: linear.epochs=20 knn.neighbours=5,20."""
    baselines: tuple[str, ...] = ()
    """With --then-eval, what to measure beside the trained encoder: random, pixels, or run folders."""
    jobs: tuple[str, ...] = ()
    """With --then-eval on a cluster, what the jobs that follow ask for: knn.time=0:30:00 report.partition=cpu."""
    stage_data: bool = False
    """Copy the training beton to each node's own disk first (node_local_folder in clusters.toml)."""
    place: Annotated[TrainingPlace, tyro.conf.arg(name="")] = field(default_factory=TrainingPlace)
    several: Annotated[SweepOptions, tyro.conf.arg(name="")] = field(default_factory=SweepOptions)
    config: Annotated[PretrainConfig, tyro.conf.arg(name=""), tyro.conf.FlagConversionOff] = field(
        default_factory=lambda: recipes.recipe(Command.recipe).pretrain
    )


def parse(arguments: list[str]) -> Command:
    """The command line, whose defaults are those of the recipe and the cluster's profile that it names.

    Where it names a run that is there already, and no recipe, they are the run's own. Of data that are no RGB the
    channels decide the first layer, the normalisation and the views.
    """
    return parse_with_notes(arguments)[0]


def parse_with_notes(arguments: list[str]) -> tuple[Command, Notes]:
    """`parse`, and what was chosen without being told, with the reasons."""
    arguments = [LONG_NAMES.sub(r"--online.\1", argument) for argument in arguments]
    start = starting_point.find(arguments, Command.recipe)
    command = read_options(arguments, start)
    return command, notes_that_hold(start, command.config)


def read_options(arguments: list[str], start: StartingPoint) -> Command:
    """The command line with its defaults from the starting point."""
    described, config = f"{Command.__doc__}\n\n{describe(start.recipe, start.config.views)}", start.config
    if HELP & set(arguments):  # the options of a view stand there once
        arguments, config = ["--help"], replace(config, views=config.views[:1])
    return read_command(Command, arguments, described, Command(recipe=start.recipe, views=start.views, config=config))
