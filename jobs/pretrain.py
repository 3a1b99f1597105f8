"""Pretrain: one recipe, any field overridden, here or on a cluster; the same command goes on after a stop."""

from __future__ import annotations

import os
import re
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
from jobs.planning import hints, recipes, starting_point, sweeps
from jobs.planning.beginning import begin, given_to
from jobs.planning.checks import VAL_DATA
from jobs.planning.cli import (
    INTERRUPTED_EXIT_CODE,
    LOG_WIDTH,
    PlaceOptions,
    configure_logging,
    placement_of,
    show_summary,
    sizes_of,
    user_errors,
)
from jobs.planning.pieces import Choice, find_due, split_by_data
from jobs.planning.pieces import plan as plan_evaluations
from jobs.planning.plan import Plan, num_steps, show_dry_run, show_submitted
from jobs.planning.run_folder import is_finished, note_code, read_run, require_same_code
from jobs.planning.starting_point import Notes, StartingPoint, notes_that_hold, show_notes
from jobs.planning.sweep_chains import prepare_all, run_all, show_sweep_plan, submit_all, summary
from jobs.planning.sweeps import SweepOptions, require_no_sweep
from slurm import chain, given_place, owner
from slurm.attempts import Pulse
from slurm.chain import Member
from slurm.cluster import Cluster
from slurm.hang_watchdog import Watchdog
from slurm.requeue import StopFlag
from slurm.task import JobSpec, Task
from vicreg import methods
from vicreg.config import PretrainConfig
from vicreg.config_json import to_json
from vicreg.ranks.meeting import require_agreement
from vicreg.ranks.rendezvous import connected
from vicreg.run_files import ENCODER_FILE
from vicreg.stop_rule import early_end_of
from vicreg.training.oversight import Oversight
from vicreg.training.train import Outcome, train

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
    place: Annotated[PlaceOptions, tyro.conf.arg(name="")] = field(default_factory=PlaceOptions)
    several: Annotated[SweepOptions, tyro.conf.arg(name="")] = field(default_factory=SweepOptions)
    config: Annotated[PretrainConfig, tyro.conf.arg(name=""), tyro.conf.FlagConversionOff] = field(
        default_factory=lambda: recipes.recipe(Command.recipe).pretrain
    )


def main(arguments: list[str]) -> int:
    """Parse, check, run or submit, say how it ended; returns the exit code."""
    with user_errors():
        command, notes = parse_with_notes(arguments)
        cluster = command.place.profile()
        console = Terminal(quiet=not given_place.speaks())
        if command.several.is_asked:
            return sweep(arguments, command, cluster, console)
        run = run_folder(command, cluster)
        require_no_sweep(run)
        given = given_to(run, command.config, console)
        plan, members = prepare(command, cluster, run, console)
        show_notes(notes, console)
        if command.place.dry_run:
            return show_dry_run(plan, console)
        begin(plan, given, notes)
        if is_finished(run):
            console.print(f"{run} is finished; choose another folder with --run to start anew", soft_wrap=True)
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


def prepare(command: Command, cluster: Cluster, run: Path, console: Console) -> tuple[Plan, list[Member]]:
    """What the run is going to be, and its jobs that are still to be done."""
    spec = job_spec(command, cluster, run)
    followers: list[Member] = []
    for name in ("set", "baselines", "jobs"):
        if getattr(command, name) and not command.then_eval:
            raise ValueError(f"--{name} is of the evaluations; add --then-eval, or give it to jobs/eval_all.py")
    if command.then_eval:
        followers = evaluations_of(command, cluster, run, spec.ranks_per_node, console)
    plan = Plan.make(command.recipe, command.config, spec, cluster, run, [member.spec.name for member in followers])
    return plan, followers if is_finished(run) else [Member(spec), *followers]


def sweep(arguments: list[str], command: Command, cluster: Cluster, console: Console) -> int:
    """Prepare and place a run for each combination and seed; returns the exit code."""
    folder, options = run_folder(command, cluster), command.several
    if given_place.place() is not None:
        raise ValueError("a sweep starts run after run, which ranks that were given a place cannot; start each alone")
    if options.at_once > 1 and cluster.scheduler == "local":
        raise ValueError(f"at-once is {options.at_once}, allowed on this machine: 1; the runs follow one another")
    asked, whole = sweeps.sweep_of(options, folder, to_json(command.config), arguments)

    notes: dict[Path, Notes] = {}

    def prepared(words: list[str], run: Path, console: Console) -> tuple[Plan, list[Member]]:
        own, notes[run] = parse_with_notes(words)
        given_to(run, own.config, console)  # what is wrong with it is said before any run begins
        show_notes(notes[run], console)
        return prepare(own, cluster, run, console)

    runs = prepare_all(asked, folder, prepared, console)
    if command.place.dry_run:
        return show_sweep_plan(runs, console)
    for one in runs:
        one.plan.require()
    with owner.alone(folder):
        sweeps.write_sweep(folder, whole)
    show_summary(console, summary(whole, folder, options.at_once, cluster))
    for one in runs:
        begin(one.plan, given_to(one.run, one.plan.config, Terminal(quiet=True)), notes[one.run])
    if cluster.scheduler == "slurm":
        submit_all(folder, runs, cluster, options.at_once, command.then_eval, console)
        return 0
    if run_all(folder, runs, cluster, command.then_eval, console):
        return 0
    console.print(f"stopped and saved; the same command goes on from there ({folder})", soft_wrap=True)
    return INTERRUPTED_EXIT_CODE


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
    if reason := early_end_of(run):
        console.print(f"ended early: {reason}", soft_wrap=True, highlight=False)
    if not was_measured:
        next_step = f"measure it with  {hints.eval_all(run)}"
        console.print(Text.assemble("finished: ", (str(run / ENCODER_FILE), "bold"), f"; {next_step}"), soft_wrap=True)
    return 0


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


def run_folder(command: Command, cluster: Cluster) -> Path:
    """Where the run goes; absolute for jobs that start somewhere else."""
    name = f"{command.recipe}-sweep" if command.several.is_asked else command.recipe
    run = Path(command.run) if command.run else Path(cluster.shared_folder) / "runs" / name
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
