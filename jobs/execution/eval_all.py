"""Measure a run: the evaluations of its recipe, here or as jobs that wait for pretraining, and then the report.

What is done and still holds is skipped (jobs/planning/pieces.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from border.terminal import Terminal
from border.text import suite_command
from jobs.execution.joined_ranks import joined
from jobs.options.eval_all import Command
from jobs.planning import recipes
from jobs.planning.cli import (
    INTERRUPTED_EXIT_CODE,
    sizes_of,
)
from jobs.planning.eval_options import absolute_baselines, settings_given
from jobs.planning.job_sizes import REPORT, read_sizes, say_needs, size_of, size_of_report
from jobs.planning.measurement import measure_all
from jobs.planning.pieces import Choice, Piece, find_due, plan, split_by_data
from jobs.planning.plan import show_submitted
from jobs.planning.recipes import LAST
from jobs.planning.run_folder import read_run, require_finished
from slurm import chain, executor, given_place, preflight, scheduler
from slurm.chain import Member
from slurm.cluster import Cluster
from slurm.job_size import JobSize
from slurm.requeue import StopFlag
from slurm.task import JobSpec, Task
from vicreg import kernels
from vicreg.config import PretrainConfig
from vicreg.evals.work import Stopped
from vicreg.ranks import distributed

TOGETHER = "evaluations"  # name of the one job that does them all on this machine, sharing features


def choice_of(command: Command, cluster: Cluster, recipe: str) -> Choice:
    """What is wanted of a run of a recipe, with paths that hold on the nodes too.

    ValueError for unknown evaluations and settings.
    """
    train, val = (str(Path(path).absolute()) if path else "" for path in (command.train, command.val))
    encoder = "" if command.encoder == "a" else command.encoder
    settings = settings_given(command.set, recipe, command.evals)
    baselines = absolute_baselines(command.baselines)
    data, others = absolute_folders(cluster), (settings, baselines, command.precision)
    return Choice(command.evals, command.checkpoints, train, val, data, encoder, *others)


def absolute_folders(cluster: Cluster) -> dict[str, str]:
    """Where the profile has data sets; data/NAME for others is looked for where the command is typed."""
    return {name: str(Path(folder).absolute()) for name, folder in cluster.data.items()}


def carry_out(command: Command) -> int:
    """Check, compute or submit what is missing; returns the exit code."""
    console = Terminal(quiet=not given_place.speaks())
    cluster = command.place.profile()
    run = command.run.absolute() if cluster.scheduler == "slurm" else command.run
    config, recipe = read_run(run)
    choice = choice_of(command, cluster, recipe)
    if choice.checkpoints == LAST and not is_awaited(run, cluster, command.after):
        require_finished(run)
    ranks = command.place.ranks_per_node(cluster)
    planned = plan(run, recipe, config.data, choice, keeps_options=not command.overwrite)
    pieces = split_by_data(planned, bool(command.evals), console)
    due = find_due(run, pieces, config, command.overwrite, console, choice.precision)
    if not due:
        console.print(f"nothing to do; see  {suite_command('jobs/report.py', run)}", soft_wrap=True)
        return 0
    place, nodes = command.place, command.place.num_nodes()
    usual = JobSize(nodes if nodes > 1 else 0, place.gpus, place.time or "")
    sizes = Sizes(config, cluster, usual, command.jobs)
    chain_members = members(run, recipe, due, choice, sizes, ranks, command.overwrite)
    if command.place.dry_run:
        return show_scripts(run, chain_members, cluster, console, needs(due, config, cluster, chain_members))
    if cluster.scheduler == "slurm":
        require_checks(run, chain_members[0].spec, cluster)
        show_submitted(run, chain.submit(run, chain_members, cluster, command.after), console)
        return 0
    return 0 if chain.run_here(run, chain_members, cluster) else INTERRUPTED_EXIT_CODE


def is_awaited(run: Path, cluster: Cluster, after: str) -> bool:
    """Whether a job that will finish the run is in the queue."""
    if cluster.scheduler != "slurm":
        return False
    pretrain = chain.read_jobs(run).get("pretrain")
    return bool(after) or (pretrain is not None and pretrain.job_id in scheduler.queued([pretrain.job_id]))


@dataclass(frozen=True)
class Sizes:
    """What is known of how large the jobs of evaluations are to be."""

    config: PretrainConfig
    cluster: Cluster
    usual: JobSize = field(default_factory=JobSize)
    """For every evaluation, from the command line."""
    given: tuple[str, ...] = ()
    """For single jobs, from the command line."""


def members(
    run: Path,
    recipe: str,
    pieces: Sequence[Piece],
    choice: Choice,
    sizes: Sizes,
    ranks_here: int,
    overwrite: bool = False,
) -> list[Member]:
    """The evaluations that the pieces belong to after pretraining, and the report after all of them.

    On a cluster each is a job of its own size; on this machine one job of `ranks_here` ranks does them all, so that
    they share the features.
    """
    chosen = dict.fromkeys((piece.evaluation, piece.asked_as) for piece in pieces)
    cluster, on_cluster = sizes.cluster, sizes.cluster.scheduler == "slurm"
    if on_cluster:
        groups = {name: [asked_as] for name, asked_as in chosen}
    else:
        groups = {TOGETHER: [asked_as for _, asked_as in chosen]} if chosen else {}
    given = read_sizes(sizes.given, [*groups, REPORT])
    evaluations = []
    for job, names in groups.items():
        wanted = {**asdict(choice), "names": names}
        arguments = {"run": str(run), "choice": wanted, "overwrite": overwrite, "job": job}
        mine = [piece for piece in pieces if piece.asked_as in names]
        reads = sizes_of(name for piece in mine for name in (piece.train, piece.val))
        size = JobSize(nodes=1, gpus=ranks_here)
        if on_cluster:
            nodes = recipes.evaluation(recipe, names[0]).nodes
            size = size_of(job, mine, sizes.config, cluster, given, sizes.usual, nodes)
        spec = JobSpec(
            job,
            "jobs.eval_all.run_job",
            arguments,
            size.nodes,
            size.gpus,
            time=size.time,
            partition=size.partition,
            reads=reads,
        )
        evaluations.append(Member(spec, ("pretrain",)))
    size = size_of_report(cluster, given) if on_cluster else JobSize()
    report = JobSpec(
        REPORT, "jobs.report.run_job", {"run": str(run)}, uses_gpus=False, time=size.time, partition=size.partition
    )
    awaited = tuple(member.spec.name for member in evaluations) or ("pretrain",)
    return [*evaluations, Member(report, after=awaited, condition="afterany")]


def needs(
    pieces: Sequence[Piece], config: PretrainConfig, cluster: Cluster, chain_members: Sequence[Member]
) -> dict[str, str]:
    """What each job that measures will take, by its name."""
    found = {}
    for spec in (member.spec for member in chain_members if member.spec.name != REPORT):
        names = spec.arguments["choice"]["names"]
        found[spec.name] = say_needs([piece for piece in pieces if piece.asked_as in names], config, spec, cluster)
    return found


def show_scripts(
    run: Path, chain_members: list[Member], cluster: Cluster, console: Console, said: Mapping[str, str] | None = None
) -> int:
    """Print what would be submitted or run, and what is said of each; returns the exit code."""
    for member in chain_members:
        waits = f", {member.condition} {' '.join(member.after)}" if member.after else ""
        console.rule(f"{member.spec.name}{waits}")
        folder = chain.job_folder(run, member.spec.name)
        if cluster.scheduler == "slurm":
            script = executor.sbatch_script(executor.for_cluster(member.spec, cluster), folder, cluster)
            console.print(*script.split("\n"), sep="\n", soft_wrap=True, highlight=False)
        else:
            console.print(f"on this machine: {member.spec.num_ranks} ranks, {member.spec.arguments}", soft_wrap=True)
        if said and member.spec.name in said:
            console.print(said[member.spec.name], soft_wrap=True, highlight=False)
    return 0


def require_checks(run: Path, spec: JobSpec, cluster: Cluster) -> None:
    """ValueError with the cure when the cluster cannot take the job."""
    checks = [preflight.check_folder(run), *preflight.check_cluster(spec, cluster)]
    failed = [check for check in checks if check.passed is False]
    if failed:
        raise ValueError("; ".join(check.whole for check in failed))


def run_job(task: Task, stop: StopFlag, run: str, choice: dict[str, Any], overwrite: bool, job: str) -> bool:
    """What every rank does: measure what is due, piece by piece; rank 0 writes each result as soon as it is there.

    A stop signal ends an evaluation at once where it has nothing to save, else when it has saved; what is done stays.
    """
    folder = Path(run)
    place = chain.job_folder(folder, job)
    stop.interrupt_at_once()
    when_interrupted = "stopped; what is done stays, the same command does the rest"
    with joined(task, place, when_interrupted) as (console, placement, watchdog):
        kernels.keep_compiled_code()
        config, recipe = read_run(folder)
        if choice["checkpoints"] == LAST:
            require_finished(folder)
        wanted = Choice.read(choice)
        pieces = plan(folder, recipe, config.data, wanted, keeps_options=not overwrite)
        mine = find_due(folder, pieces, config, overwrite, console, wanted.precision) if task.rank == 0 else []
        distributed.device_for(placement)
        # Rank 0 decides: the others may see a result a moment later.
        due = [piece for piece in pieces if distributed.from_rank_0(int(piece in mine))]
        try:
            num_done = len(pieces) - len(due)
            measure_all(folder, due, num_done, placement, console, place, stop, watchdog, wanted.precision)
        except Stopped as stopped:
            if task.rank == 0:
                console.print(f"{stopped} and saved; the same command goes on from there", highlight=False)
            return False
    return True
