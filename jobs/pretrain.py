"""Pretrain: one recipe, any field overridden, here or on a cluster; the same command goes on after a stop."""

from __future__ import annotations

import os
import sys
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

if __name__ == "__main__":  # the tree that this file stands in, whatever is installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import tyro
from rich.console import Console
from rich.text import Text

from border.private_folder import temporary_folder
from border.terminal import Terminal
from disk.closed_pipe import quietly
from jobs import eval_all
from jobs.planning import hints, recipes, starting_point
from jobs.planning.checks import VAL_DATA
from jobs.planning.cli import (
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
from jobs.planning.run_folder import is_finished, note_code, read_run, require_same_code, write_config
from jobs.planning.starting_point import Notes, StartingPoint
from slurm import chain, given_place, owner
from slurm.attempts import Pulse
from slurm.chain import Member
from slurm.cluster import Cluster
from slurm.requeue import StopFlag
from slurm.task import JobSpec, Task
from slurm.watchdog import Watchdog
from vicreg import methods
from vicreg.config import PretrainConfig
from vicreg.config_json import flat, to_json
from vicreg.exchange.encoder_file import ENCODER_FILE
from vicreg.exchange.given_weights import BEGINNING_FILE, Given, keep, other_input, read_given
from vicreg.ranks.meeting import require_agreement
from vicreg.ranks.rendezvous import connected
from vicreg.training.oversight import Oversight
from vicreg.training.train import Outcome, train


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
    place: Annotated[PlaceOptions, tyro.conf.arg(name="")] = field(default_factory=PlaceOptions)
    config: Annotated[PretrainConfig, tyro.conf.arg(name=""), tyro.conf.FlagConversionOff] = field(
        default_factory=lambda: recipes.recipe(Command.recipe).pretrain
    )


def main(arguments: list[str]) -> int:
    """Parse, check, run or submit, say how it ended; returns the exit code."""
    with user_errors():
        start = starting_point.find(arguments, Command.recipe)
        command = read_options(arguments, start)
        notes = notes_that_hold(start, command.config)
        cluster = command.place.profile()
        run = run_folder(command, cluster)
        spec = job_spec(command, cluster, run)
        speaks = given_place.speaks()
        console = Terminal(quiet=not speaks)
        followers: list[Member] = []
        for name in ("set", "baselines", "jobs"):
            if getattr(command, name) and not command.then_eval:
                raise ValueError(f"--{name} is of the evaluations; add --then-eval, or give it to jobs/eval_all.py")
        if command.then_eval:
            followers = evaluations_of(command, cluster, run, spec.ranks_per_node, console)
        given = given_to(run, command.config, console)
        plan = Plan.make(command.recipe, command.config, spec, cluster, run, [member.spec.name for member in followers])
        show_notes(notes, console)
        if command.place.dry_run:
            return show_dry_run(plan, console)
        if speaks:
            plan.require()
            with owner.alone(run):
                if given_place.place() is None:
                    chain.require_free(run, spec.name, cluster)
                if given:
                    keep(run, given)
                origin = given.origin if given else None
                write_config(run, command.recipe, command.config, beginning=origin, chosen=notes)
        members = [Member(spec), *followers]
        if is_finished(run):
            console.print(f"{run} is finished; choose another folder with --run to start anew", soft_wrap=True)
            members = followers
        if not members:
            return 0
        console.print(plan.summary())
        for check in plan.checks:
            if check.passed is None and check.name == VAL_DATA:
                console.print(Text(f"note: {check.said}", "yellow"), soft_wrap=True)
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
    choice = Choice(
        data=eval_all.absolute_folders(cluster),
        settings=eval_all.settings_given(command.set, command.recipe, ()),
        baselines=eval_all.absolute_baselines(command.baselines),
    )
    wanted = plan_evaluations(run, command.recipe, command.config.data, choice)
    pieces = split_by_data(wanted, False, console)
    if is_finished(run):
        pieces = find_due(run, pieces, read_run(run)[0], False, console)
        if not pieces:
            return []
    sizes = eval_all.Sizes(command.config, cluster, given=command.jobs)
    return eval_all.members(run, command.recipe, pieces, choice, sizes, ranks_per_node)


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
    return read_options(arguments, starting_point.find(arguments, Command.recipe))


def read_options(arguments: list[str], start: StartingPoint) -> Command:
    """The command line with its defaults from the starting point."""
    recipe = recipes.recipe(start.recipe)
    described = f"{recipe.source}.\nExpected: {recipe.expected}.\nRecipes: {', '.join(recipes.RECIPES)}; "
    described += f"{recipes.AUTO}, which looks at your images.\nMethods: {', '.join(methods.names())}."
    return tyro.cli(
        Command,
        args=arguments,
        default=Command(recipe=recipe.name, views=start.views, config=start.config),
        description=f"{Command.__doc__}\n\nRecipe {recipe.name}: {described}",
        config=(tyro.conf.FlagCreatePairsOff,),
    )


def notes_that_hold(start: StartingPoint, config: PretrainConfig) -> Notes:
    """What was chosen and why, with what the command line has changed of it."""
    chosen, final = flat(to_json(start.config)), flat(to_json(config))
    given = {name: f"{final[name]}: given" for name in start.notes if chosen.get(name) != final.get(name)}
    return start.notes | given


def show_notes(notes: Notes, console: Console) -> None:
    """What was decided without being told, a line each."""
    for name, said in notes.items():
        console.print(Text.assemble((name, "bold"), "  ", said), soft_wrap=True)


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
