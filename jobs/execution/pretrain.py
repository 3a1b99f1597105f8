"""Pretrain: one recipe, any field overridden, here or on a cluster; the same command goes on after a stop."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.text import Text

from border.terminal import Terminal
from jobs.execution import eval_all
from jobs.execution.joined_ranks import joined
from jobs.options.pretrain import Command, parse_with_notes, run_folder
from jobs.planning import hints, sweeps
from jobs.planning.beginning import begin, given_to
from jobs.planning.checks import VAL_DATA
from jobs.planning.cli import (
    INTERRUPTED_EXIT_CODE,
    show_summary,
    sizes_of,
)
from jobs.planning.eval_options import absolute_baselines, settings_given
from jobs.planning.pieces import Choice, find_due, split_by_data
from jobs.planning.pieces import plan as plan_evaluations
from jobs.planning.plan import Plan, num_steps, show_dry_run, show_submitted
from jobs.planning.run_folder import is_finished, note_code, read_run
from jobs.planning.starting_point import Notes, show_notes
from jobs.planning.sweep_chains import prepare_all, run_all, show_sweep_plan, submit_all, summary
from jobs.planning.sweeps import require_no_sweep
from slurm import chain, given_place, owner
from slurm.attempts import Pulse
from slurm.chain import Member
from slurm.cluster import Cluster
from slurm.requeue import StopFlag
from slurm.task import JobSpec, Task
from vicreg import kernels
from vicreg.config_json import to_json
from vicreg.run_files import ENCODER_FILE
from vicreg.stop_rule import early_end_of
from vicreg.training.oversight import Oversight
from vicreg.training.train import Outcome, train


def carry_out(command: Command, notes: Notes, arguments: list[str]) -> int:
    """Check, run or submit, say how it ended; returns the exit code."""
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
            console.print(Text(f"note: {check.whole}", "yellow"), soft_wrap=True)
    if cluster.scheduler == "slurm":
        show_submitted(run, chain.submit(run, members, cluster), console)
        return 0
    chain.run_here(run, members, cluster)
    return say_how_it_ended(run, command.then_eval, console)


def prepare(command: Command, cluster: Cluster, run: Path, console: Console) -> tuple[Plan, list[Member]]:
    """What the run is going to be, and its jobs that are still to be done."""
    spec = job_spec(command, cluster, run)
    followers: list[Member] = []
    if command.then_eval:
        followers = evaluations_of(command, cluster, run, spec.ranks_per_node, console)
    plan = Plan.make(command.recipe, command.config, spec, cluster, run, [member.spec.name for member in followers])
    return plan, followers if is_finished(run) else [Member(spec), *followers]


def sweep(arguments: list[str], command: Command, cluster: Cluster, console: Console) -> int:
    """Prepare and place a run for each combination and seed; returns the exit code."""
    folder, options = run_folder(command, cluster), command.several
    if given_place.place() is not None:
        raise ValueError("a sweep starts run after run, which ranks that were given a place cannot; start each alone")
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
        settings=settings_given(command.set, command.recipe, ()),
        baselines=absolute_baselines(command.baselines),
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


def job_spec(command: Command, cluster: Cluster, run: Path) -> JobSpec:
    """The pretraining job; ValueError for more GPUs than there are."""
    stage = {}
    if command.stage_data:
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
    job_folder = chain.job_folder(folder, "pretrain")
    with joined(task, job_folder) as (console, placement, watchdog):
        config, _ = read_run(folder)
        if task.rank == 0:
            note_code(folder)
        kernels.keep_compiled_code()  # torch would run what lies under a name in /tmp that everybody can take
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
