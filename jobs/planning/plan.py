"""What a pretraining job is going to be, before it is one: sizes, steps, memory, traffic, and every check."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from border.text import suite_command
from dataprep.beton.contract import Beton, open_beton
from jobs.planning.checks import (
    check_batch,
    check_cores,
    check_data,
    check_model,
    check_val_data,
    gb,
    is_on_gpu,
    node_memory_bytes,
    training_data,
)
from jobs.planning.cli import show_commands
from jobs.planning.command_line import options
from jobs.planning.scaling import assumptions, forms_table, scaling_table
from jobs.planning.writing_commands import asks
from slurm import chain, executor, preflight
from slurm.chain import Submitted
from slurm.cluster import Cluster
from slurm.preflight import Check
from slurm.task import JobSpec
from vicreg import networks
from vicreg.config import PretrainConfig
from vicreg.config_json import to_json
from vicreg.cost.estimate import Cost
from vicreg.cost.view_shapes import view_shape
from vicreg.losses.forms import NUM_VIEWS
from vicreg.optim.optimizers import peak_rate
from vicreg.views.order import batches_per_epoch

MARKS = {True: Text("ok", "green"), False: Text("no", "bold red"), None: Text("?", "yellow")}


@dataclass(frozen=True)
class Plan:
    """A pretraining job with its checks."""

    recipe: str
    config: PretrainConfig
    spec: JobSpec
    cluster: Cluster
    run: Path
    then: tuple[str, ...]
    """Names of the jobs that follow."""
    beton: Beton | None
    """The training data, if they can be opened."""
    needs: Cost | None
    """What a rank will take, if that can be said."""
    checks: tuple[Check, ...]

    @classmethod
    def make(
        cls, recipe: str, config: PretrainConfig, spec: JobSpec, cluster: Cluster, run: Path, then: Sequence[str] = ()
    ) -> Plan:
        """Look at everything that can be known before a rank starts."""
        beton, data = check_data(config)
        needs, model = check_model(config, spec, cluster, training_data(beton))
        checks = [
            check_batch(config, spec),
            model,
            *check_cores(spec, cluster),
            data,
            check_val_data(config, is_needed=bool(then) or config.online.every_epochs > 0),
            preflight.check_folder(run),
            *preflight.check_cluster(spec, cluster),
        ]
        return cls(recipe, config, spec, cluster, run, tuple(then), beton, needs, tuple(checks))

    @property
    def num_steps(self) -> int:
        """Steps of the whole run; 0 without data."""
        train = self.config.train
        return self.beton.num_samples // train.global_batch * train.epochs if self.beton else 0

    def require(self) -> None:
        """ValueError with all that failed."""
        failed = [check for check in self.checks if check.passed is False]
        if len(failed) == 1:
            raise ValueError(failed[0].whole)
        if failed:
            raise ValueError("".join(f"\n  {check.whole}" for check in failed))

    def summary(self) -> Table:
        """The job in a few lines."""
        config, spec = self.config, self.spec
        table = _facts()
        table.add_row("recipe", self.recipe)
        table.add_row("data", self._data())
        if config.model.channels and not config.model.sound.is_on:
            table.add_row("views", "channels that are no colours: nothing changes saturation or hue, or solarises")
        table.add_row("method", config.method.name)
        table.add_row("model", say_model(config))
        table.add_row("length", self._length())
        kind = "rank" if is_on_gpu(spec, self.cluster) else "CPU rank"
        ranks = f"{spec.num_ranks} {kind}{'' if spec.num_ranks == 1 else 's'}"
        nodes = f"{spec.num_nodes} {'node' if spec.num_nodes == 1 else 'nodes'}"
        nodes += f" and {spec.spare_nodes} to spare" if spec.spare_nodes else ""
        where = f"cluster {self.cluster.name}" if self.cluster.scheduler == "slurm" else "this machine"
        table.add_row("on", f"{where}: {nodes}, {ranks}")
        table.add_row("run folder", str(self.run))
        if self.then:
            table.add_row("then", ", ".join(self.then))
        return table

    def table(self) -> Table:
        """The summary with what the job will take."""
        config, needs = self.config, self.needs
        table = self.summary()
        table.add_row("batch", f"{config.train.global_batch} {self._things}, {self._per_rank()} per rank")
        optimizer = config.optimizer
        peak = peak_rate(optimizer, config.train.global_batch)
        is_scaled = optimizer.name != "adamw"
        scaled = f" = {optimizer.base_lr:g} x {config.train.global_batch} / 256" if is_scaled else ""
        rate = f"{peak:g}{scaled}"
        table.add_row("peak rate", f"{rate}, {optimizer.name}, warm-up {optimizer.warmup_epochs:g} epochs")
        if needs is None:
            return table
        table.add_row(
            f"memory per {'GPU' if is_on_gpu(self.spec, self.cluster) else 'rank'}",
            f"about {gb(needs.memory_bytes)}: weights, gradients and optimizer "
            f"{gb(needs.weights_bytes + needs.gradients_bytes + needs.optimizer_bytes)}, activations "
            f"{gb(needs.activations_bytes)}, loss {gb(needs.loss_bytes)}, batch {gb(needs.batch_bytes)}",
        )
        table.add_row("checkpoint", f"{gb(needs.checkpoint_bytes)}, the newest {config.train.keep_checkpoints} stay")
        table.add_row(
            "traffic per step",
            f"{gb(needs.traffic_bytes)} from each rank: gradients {gb(needs.gradient_traffic_bytes)}, embeddings "
            f"{gb(needs.embedding_traffic_bytes)}, batch norm {gb(needs.batch_norm_traffic_bytes)}",
        )
        table.add_row("data in memory", self._data_in_memory())
        return table

    def _data(self) -> str:
        if self.beton is None:
            return self.config.data.train
        pixels = "" if self.beton.pixels.is_rgb else f" of {self.beton.pixels}"
        return (
            f"{self.config.data.train}: {self.beton.num_samples:,} {self._things}{pixels}, {gb(self.beton.file.size)}"
        )

    def _length(self) -> str:
        train = self.config.train
        if self.beton is None:
            return f"{train.epochs} epochs, {train.global_batch} {self._things} a step"
        steps = self.beton.num_samples // train.global_batch
        return f"{train.epochs} epochs of {steps} steps, {train.global_batch} {self._things} a step"

    @property
    def _things(self) -> str:
        return self.config.model.sound.samples_are

    def _per_rank(self) -> str:
        return f"{self.config.train.global_batch / self.spec.num_ranks:g}"

    def _data_in_memory(self) -> str:
        """Whether a node can keep all training data in its file cache."""
        memory = node_memory_bytes(self.cluster)
        if self.beton is None:
            return "unknown: there are no data"
        size = self.beton.file.size
        if not memory:
            return f"{gb(size)}; node_memory_gb in clusters.toml is not set"
        fits = "fits into the file cache" if size < 0.7 * memory else "will be read again every epoch"
        return f"{gb(size)} of {gb(memory)} per node: {fits}"


def say_model(config: PretrainConfig) -> str:
    """The method's networks and the sizes of the views, in one line."""
    if config.model.sound.is_on:
        views = range(len(config.each_view))
        shapes = " and ".join(" x ".join(f"{side:,}" for side in view_shape(config, view)[1:]) for view in views)
        return f"{networks.load(config.method.name).networks(config)}, views of {shapes}"
    sizes = [view.image_size for view in config.each_view]
    counts = {size: sizes.count(size) for size in dict.fromkeys(sizes)}
    usual = counts == {sizes[0]: NUM_VIEWS}
    said = f"{sizes[0]}" if usual else " + ".join(f"{count} x {size}" for size, count in counts.items())
    return f"{networks.load(config.method.name).networks(config)}, {said} px"


def num_steps(config: PretrainConfig) -> int:
    """Steps of the whole run."""
    beton = open_beton(Path(config.data.train))
    return batches_per_epoch(beton.num_samples, config.train.global_batch) * config.train.epochs


def show_dry_run(plan: Plan, console: Console) -> int:
    """Print all that would happen; returns the exit code, 1 when a check failed."""
    if plan.cluster.scheduler == "slurm":
        spec = executor.for_cluster(plan.spec, plan.cluster)
        script = executor.sbatch_script(spec, chain.job_folder(plan.run, plan.spec.name), plan.cluster)
        console.rule("script")
        console.print(*script.split("\n"), sep="\n", soft_wrap=True, highlight=False)
    console.rule("configuration, as options")
    for name, value in options(to_json(plan.config)):
        console.print(f"--{name} {value}", soft_wrap=True, highlight=False)
    console.rule("plan")
    console.print(plan.table())
    if plan.needs is not None:
        on_gpu = is_on_gpu(plan.spec, plan.cluster)
        console.rule("scaling")
        console.print(forms_table(plan.config, plan.spec.num_ranks, plan.cluster, on_gpu))
        console.print(scaling_table(plan.config, plan.num_steps, plan.cluster, on_gpu, training_data(plan.beton)))
        console.print(assumptions(plan.cluster, on_gpu), style="dim", highlight=False)
    console.rule("checks")
    console.print(checks_table(plan.checks))
    commands = dict.fromkeys(check.command for check in plan.checks if check.command)
    if commands:
        meant = "; what stands in capitals is yours to say" if any(asks(command) for command in commands) else ""
        show_commands(console, f"what is missing is written with{meant}", list(commands))
    failed = any(check.passed is False for check in plan.checks)
    console.print(Text("it would not start", "bold red") if failed else "nothing was started or submitted")
    return int(failed)


def checks_table(checks: Sequence[Check]) -> Table:
    """Every check, and how it went."""
    table = _facts()
    table.add_column()
    for check in checks:
        table.add_row(check.name, MARKS[check.passed], check.said)
    return table


def show_submitted(run: Path, submitted: Sequence[Submitted], console: Console) -> None:
    """Say which jobs wait for what now."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    for header in ("job", "id", "waits for", ""):
        table.add_column(header, style="bold" if header == "job" else None)
    for job in submitted:
        table.add_row(job.name, job.job_id, job.dependency, "" if job.is_new else "was there already")
    console.print(table)
    console.print(f"watch them with  {suite_command('jobs/status.py', run, '--watch')}", soft_wrap=True)


def _facts() -> Table:
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    return table
