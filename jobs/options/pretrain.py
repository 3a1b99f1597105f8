"""Options of jobs/pretrain.py."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from border.help_texts import HELP
from jobs.planning import recipes, starting_point
from jobs.planning.cli import TrainingPlace
from jobs.planning.command_line import read_command
from jobs.planning.eval_options import other_encoders, require_cluster, settings_given
from jobs.planning.recipe_help import describe
from jobs.planning.starting_point import Notes, StartingPoint, notes_that_hold
from jobs.planning.sweeps import SweepOptions, arguments_of, axes_of, trials_of, without_sweep
from jobs.planning.writing_commands import require_beton
from slurm.cluster import Cluster
from slurm.preflight import check_folder
from vicreg.config import PUBLISHERS, PretrainConfig
from vicreg.encoder_names import require_known
from vicreg.run_files import BEGINNING_FILE

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


def require_possible(command: Command, arguments: list[str]) -> None:
    """ValueError for what can be known to be impossible before anything is computed."""
    if command.several.is_asked:
        require_each(command, arguments)
    for name in ("set", "baselines", "jobs"):
        if getattr(command, name) and not command.then_eval:
            raise ValueError(f"--{name} is of the evaluations; add --then-eval, or give it to jobs/eval_all.py")
    require_known(command.config.model)  # these raise what they object to
    settings_given(command.set, command.recipe, ())
    other_encoders(command.baselines)
    profile = command.place.profile()
    command.place.require_possible(profile)
    require_cluster(command.jobs, profile)
    if not command.several.is_asked and not (run_folder(command, profile) / BEGINNING_FILE).exists():
        _require_weights(command.config.model.weights)
    if command.stage_data and not profile.node_local_folder:
        raise ValueError(f"stage-data needs node_local_folder in clusters.toml, table [{profile.name}]")
    if command.several.at_once > 1 and profile.scheduler == "local":
        raise ValueError(f"at-once is {command.several.at_once}, allowed on this machine: 1; runs follow one another")
    looks_at_all = command.place.dry_run or command.several.is_asked or profile.scheduler != "local"
    if looks_at_all:  # and says it together
        return
    require_beton(Path(command.config.data.train))
    folder = check_folder(run_folder(command, profile))
    if folder.passed is False:
        raise ValueError(folder.said)


def _require_weights(weights: str) -> None:
    """ValueError where a new run is to begin with a file that is not there."""
    if weights and weights not in PUBLISHERS and not Path(weights).exists():
        allowed = f"{' or '.join(PUBLISHERS)} (those published there), or a file; there is no such file"
        raise ValueError(f"model.weights is {weights!r}, allowed: {allowed}")


def run_folder(command: Command, cluster: Cluster) -> Path:
    """Where the run goes; absolute for jobs that start somewhere else."""
    name = f"{command.recipe}-sweep" if command.several.is_asked else command.recipe
    run = Path(command.run) if command.run else Path(cluster.shared_folder) / "runs" / name
    return run.absolute() if cluster.scheduler == "slurm" else run


def require_each(command: Command, arguments: list[str]) -> None:
    """ValueError for a swept value that cannot be; leaves as for an option that cannot, where it is one.

    Of the combinations those are read that differ from the first in one value.
    """
    plain, folder = without_sweep(arguments), run_folder(command, command.place.profile())
    first, *others = trials_of(axes_of(command.several), [command.config.train.seed])
    for trial in (first, *others):
        if len(trial.settings.items() - first.settings.items()) <= 1:
            swept, _ = parse_with_notes(arguments_of(trial, plain, folder / trial.name))
            require_known(swept.config.model)


def read_options(arguments: list[str], start: StartingPoint) -> Command:
    """The command line with its defaults from the starting point."""
    described, config = f"{Command.__doc__}\n\n{describe(start.recipe, start.config.views)}", start.config
    if HELP & set(arguments):  # the options of a view stand there once
        arguments, config = ["--help"], replace(config, views=config.views[:1])
    return read_command(Command, arguments, described, Command(recipe=start.recipe, views=start.views, config=config))
