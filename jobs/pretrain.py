"""Pretrain: one recipe, any field overridden, here or on a cluster; the same command goes on after a stop."""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

if __name__ == "__main__":  # the tree that this file stands in, whatever is installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import tyro
from rich.console import Console
from rich.text import Text

from border.private_folder import temporary_folder
from border.terminal import Terminal, complain
from disk.closed_pipe import quietly
from jobs import eval_all
from jobs.planning import hints, recipes
from jobs.planning.cli import (
    CONFIG_FILE,
    INTERRUPTED_EXIT_CODE,
    LOG_WIDTH,
    PlaceOptions,
    configure_logging,
    placement_of,
    sizes_of,
    user_errors,
)
from jobs.planning.pieces import Choice, find_due, split_by_data
from jobs.planning.pieces import plan as plan_evaluations
from jobs.planning.plan import Plan, num_steps, show_dry_run, show_submitted
from jobs.planning.run_folder import ConfigDamaged, is_finished, note_code, read_run, require_same_code, write_config
from slurm import chain, given_place, owner
from slurm.attempts import Pulse
from slurm.chain import Member
from slurm.cluster import Cluster
from slurm.cluster import load as load_profile
from slurm.requeue import StopFlag
from slurm.task import JobSpec, Task
from slurm.watchdog import Watchdog
from vicreg import methods
from vicreg.config import PretrainConfig, official_views, paper_views
from vicreg.data.channels import fitted_to_channels
from vicreg.exchange.encoder_file import ENCODER_FILE
from vicreg.exchange.given_weights import BEGINNING_FILE, Given, keep, other_input, read_given
from vicreg.ranks.meeting import require_agreement
from vicreg.ranks.rendezvous import connected
from vicreg.training.oversight import Oversight
from vicreg.training.train import Outcome, train

VIEWS = {"official": official_views, "paper": paper_views}


@dataclass(frozen=True)
class Command:
    """Pretrain. Options start from the recipe's values; a run folder that has a checkpoint is resumed."""

    recipe: str = "imagenet-1000ep"
    """Named run to start from."""
    views: Literal["recipe", "official", "paper"] = "recipe"
    """Augmentation to start from: the recipe's, the official code's asymmetric pair, or the paper's symmetric text."""
    run: str = ""
    """Run folder; runs/RECIPE if empty (in the cluster's shared folder, if its profile has one). Of a run that is
    there, alone, it goes on as it was started."""
    then_eval: bool = False
    """Go on with the recipe's evaluations and the report."""
    stage_data: bool = False
    """Copy the training beton to each node's own disk first (node_local_folder in clusters.toml)."""
    place: Annotated[PlaceOptions, tyro.conf.arg(name="")] = field(default_factory=PlaceOptions)
    config: Annotated[PretrainConfig, tyro.conf.arg(name=""), tyro.conf.FlagConversionOff] = field(
        default_factory=lambda: recipes.recipe(Command.recipe).pretrain
    )


def main(arguments: list[str]) -> int:
    """Parse, check, run or submit, say how it ended; returns the exit code."""
    with user_errors():
        command = parse(arguments)
        cluster = command.place.profile()
        run = run_folder(command, cluster)
        spec = job_spec(command, cluster, run)
        speaks = given_place.speaks()
        console = Terminal(quiet=not speaks)
        followers: list[Member] = []
        if command.then_eval:
            followers = evaluations_of(command, cluster, run, spec.ranks_per_node, console)
        given = given_to(run, command.config, console)
        plan = Plan.make(command.recipe, command.config, spec, cluster, run, [member.spec.name for member in followers])
        if command.place.dry_run:
            return show_dry_run(plan, console)
        if speaks:
            plan.require()
            with owner.alone(run):
                if given_place.place() is None:
                    chain.require_free(run, spec.name, cluster)
                if given:
                    keep(run, given)
                write_config(run, command.recipe, command.config, beginning=given.origin if given else None)
        members = [Member(spec), *followers]
        if is_finished(run):
            console.print(f"{run} is finished; choose another folder with --run to start anew", soft_wrap=True)
            members = followers
        if not members:
            return 0
        console.print(plan.summary())
        if cluster.scheduler == "slurm":
            show_submitted(run, chain.submit(run, members, cluster), console)
            return 0
        chain.run_here(run, members, cluster)
        return say_how_it_ended(run, command.then_eval, console)


def given_to(run: Path, config: PretrainConfig, console: Console) -> Given | None:
    """The weights that the run begins with; None where it begins with random ones, or has those it began with."""
    if not config.model.weights or (run / BEGINNING_FILE).is_file():
        return None
    given = read_given(config.model)
    notes = [*given.said, *other_input(given.weights, config.model, config.data)]
    console.print(*(f"weights: {note}" for note in notes), sep="\n", soft_wrap=True, highlight=False)
    return given


def evaluations_of(
    command: Command, cluster: Cluster, run: Path, ranks_per_node: int, console: Console
) -> list[Member]:
    """The recipe's evaluations for which there are data and which are still to be done, and the report on them."""
    choice = Choice(data=eval_all.absolute_folders(cluster))
    wanted = plan_evaluations(run, command.recipe, command.config.data, choice)
    pieces = split_by_data(wanted, False, console)
    if is_finished(run):
        pieces = find_due(run, pieces, read_run(run)[0], False, console)
        if not pieces:
            return []
    return eval_all.members(run, command.recipe, pieces, choice, cluster, 1, ranks_per_node)


def say_how_it_ended(run: Path, was_measured: bool, console: Console) -> int:
    """One line after a run on this machine; returns the exit code."""
    if not is_finished(run):
        console.print(f"stopped and saved; the same command goes on from there ({run})", soft_wrap=True)
        return INTERRUPTED_EXIT_CODE
    if not was_measured:
        next_step = f"measure it with  {hints.eval_all(run)}"
        console.print(Text.assemble("finished: ", (str(run / ENCODER_FILE), "bold"), f"; {next_step}"), soft_wrap=True)
    return 0


def parse(arguments: list[str]) -> Command:
    """The command line, whose defaults are those of the recipe and the cluster's profile that it names.

    Where it names a run that is there already, and no recipe, they are the run's own. Of data that are no RGB the
    channels decide the first layer, the normalisation and the views.
    """
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    early.add_argument("--run", default="")
    early.add_argument("--recipe", default="")
    early.add_argument("--views", default=Command.views)
    early.add_argument("--cluster", default="")
    early.add_argument("--method.name", dest="method", default="")
    early.add_argument("--data.train", dest="train", default="")
    chosen, _ = early.parse_known_args(arguments)
    config, name = own_config(Path(chosen.run)) if chosen.run and not chosen.recipe else (None, "")
    recipe = recipes.recipe(chosen.recipe or name or Command.recipe)
    is_new = config is None
    config = config or at_home(recipe.pretrain, load_profile(chosen.cluster))
    if chosen.views in VIEWS:
        config = replace(config, views=VIEWS[chosen.views]())
    if is_new:
        data = replace(config.data, train=chosen.train or config.data.train)
        config = fitted_to_channels(replace(config, data=data))
    if chosen.method and chosen.method != config.method.name:
        config = replace(config, method=methods.load(chosen.method).Config())
    described = f"{recipe.source}.\nExpected: {recipe.expected}.\nRecipes: {', '.join(recipes.RECIPES)}.\n"
    described += f"Methods: {', '.join(methods.names())}."
    return tyro.cli(
        Command,
        args=arguments,
        default=Command(recipe=recipe.name, views=chosen.views, config=config),
        description=f"{Command.__doc__}\n\nRecipe {recipe.name}: {described}",
        config=(tyro.conf.FlagCreatePairsOff,),
    )


def own_config(run: Path) -> tuple[PretrainConfig | None, str]:
    """Configuration and recipe of a run that is there; nothing where none is, or what it holds is damaged."""
    try:
        return read_run(run) if (run / CONFIG_FILE).is_file() else (None, "")
    except ConfigDamaged as error:
        complain(str(error))
        return None, ""


def at_home(config: PretrainConfig, cluster: Cluster) -> PretrainConfig:
    """The configuration with the data where the cluster's profile has them; data/NAME/ is a data set's usual place."""
    folder = cluster.data.get(Path(config.data.train).parent.name)
    if not folder:
        return config
    train, val = (str(Path(folder) / Path(path).name) for path in (config.data.train, config.data.val))
    return replace(config, data=replace(config.data, train=train, val=val))


def run_folder(command: Command, cluster: Cluster) -> Path:
    """Where the run goes; absolute for jobs that start somewhere else."""
    run = Path(command.run) if command.run else Path(cluster.shared_folder) / "runs" / command.recipe
    return run.absolute() if cluster.scheduler == "slurm" else run


def job_spec(command: Command, cluster: Cluster, run: Path) -> JobSpec:
    """The pretraining job; ValueError where the flags do not fit the cluster."""
    stage = {}
    if command.stage_data:
        if not cluster.node_local_folder:
            raise ValueError(f"stage-data needs node_local_folder in clusters.toml, table [{cluster.name}]")
        stage = {"train_beton": str(Path(command.config.data.train).absolute())}
    ranks = command.place.ranks_per_node(cluster)
    return JobSpec(
        "pretrain",
        "jobs.pretrain.run_job",
        {"run": str(run)},
        command.place.num_nodes(),
        ranks,
        spare_nodes=command.place.spare_nodes,
        reads=sizes_of([command.config.data.train]),
        stage=stage or None,
    )


def run_job(task: Task, stop: StopFlag, run: str, train_beton: str = "") -> bool:
    """What every rank does, wherever it was placed: take the configuration from the run folder and train."""
    folder = Path(run)
    if is_finished(folder):
        return True
    console = Terminal() if task.has_terminal else Terminal(force_terminal=False, width=LOG_WIDTH)
    job_folder = chain.job_folder(folder, "pretrain")
    configure_logging(console, task, job_folder)
    placement = placement_of(task)
    with (
        user_errors(note=task.note_error),
        connected(placement, task.rendezvous, task.rendezvous_timeout_s, task.is_given),
        closing(Watchdog(task)) as watchdog,
    ):
        require_agreement(placement)
        require_same_code(placement.name(task.rank))
        config, _ = read_run(folder)
        if task.rank == 0:
            note_code(folder)
        if config.train.compile:  # torch would run what lies under a name in /tmp that everybody can take
            os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(temporary_folder("compiled")))
        pulse = Pulse(job_folder, num_steps(config))

        def should_stop(step: int) -> bool:
            watchdog.heard()
            asked = stop()
            if task.rank == 0:
                pulse.beat(step, at_once=asked)
            return asked

        oversight = Oversight(should_stop, stop.require_owner, watchdog.phase)
        outcome = train(config, folder, placement, oversight, console, train_beton)
        if outcome is Outcome.STOPPED and task.rank == 0:
            console.print(f"{stop.signal_name or 'another rank'} asked to stop", highlight=False)
    return outcome is Outcome.FINISHED


if __name__ == "__main__":
    sys.exit(quietly(lambda: main(sys.argv[1:])))
