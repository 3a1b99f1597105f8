"""What a pretraining job is going to be, before it is one: sizes, steps, memory, traffic, and every check."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from dataprep.beton.contract import Beton, open_beton
from jobs.planning.scaling import assumptions, forms_table, scaling_table, speeds_of
from slurm import chain, executor, preflight
from slurm.chain import Submitted
from slurm.cluster import Cluster
from slurm.preflight import Check
from slurm.task import JobSpec
from vicreg import methods
from vicreg.config import PretrainConfig
from vicreg.config_json import flat, to_json
from vicreg.cost.estimate import Cost, estimate
from vicreg.data.batches import num_classes
from vicreg.losses.forms import NUM_VIEWS
from vicreg.method import UNKNOWN_DATA, TrainingData
from vicreg.optim.optimizers import peak_rate
from vicreg.views.order import batches_per_epoch

MARKS = {True: "[green]ok[/]", False: "[bold red]no[/]", None: "[yellow]?[/]"}


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
            data,
            *([check_val_data(config)] if then or config.online.every_epochs else []),
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
            raise ValueError(failed[0].said)
        if failed:
            raise ValueError("".join(f"\n  {check.said}" for check in failed))

    def summary(self) -> Table:
        """The job in a few lines."""
        config, spec = self.config, self.spec
        table = _facts()
        table.add_row("recipe", self.recipe)
        table.add_row("data", self._data())
        table.add_row("method", config.method.name)
        table.add_row("model", say_model(config))
        table.add_row("length", self._length())
        ranks = f"{spec.num_ranks} {'rank' if spec.num_ranks == 1 else 'ranks'}"
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
        table.add_row("batch", f"{config.train.global_batch} images, {self._per_rank()} per rank")
        optimizer = config.optimizer
        peak = peak_rate(optimizer, config.train.global_batch)
        is_scaled = optimizer.name != "adamw"
        scaled = f" = {optimizer.base_lr:g} x {config.train.global_batch} / 256" if is_scaled else ""
        rate = f"{peak:g}{scaled}"
        table.add_row("peak rate", f"{rate}, {optimizer.name}, warm-up {optimizer.warmup_epochs:g} epochs")
        if needs is None:
            return table
        table.add_row(
            f"memory per {'GPU' if _is_on_gpu(self.spec, self.cluster) else 'rank'}",
            f"about {_gb(needs.memory_bytes)}: weights, gradients and optimizer "
            f"{_gb(needs.weights_bytes + needs.gradients_bytes + needs.optimizer_bytes)}, activations "
            f"{_gb(needs.activations_bytes)}, loss {_gb(needs.loss_bytes)}, batch {_gb(needs.batch_bytes)}",
        )
        table.add_row("checkpoint", f"{_gb(needs.checkpoint_bytes)}, the newest {config.train.keep_checkpoints} stay")
        table.add_row(
            "traffic per step",
            f"{_gb(needs.traffic_bytes)} from each rank: gradients {_gb(needs.gradient_traffic_bytes)}, embeddings "
            f"{_gb(needs.embedding_traffic_bytes)}, batch norm {_gb(needs.batch_norm_traffic_bytes)}",
        )
        table.add_row("data in memory", self._data_in_memory())
        return table

    def _data(self) -> str:
        if self.beton is None:
            return self.config.data.train
        return f"{self.config.data.train}: {self.beton.num_samples:,} images, {_gb(self.beton.memory.size)}"

    def _length(self) -> str:
        train = self.config.train
        if self.beton is None:
            return f"{train.epochs} epochs, {train.global_batch} images a step"
        steps = self.beton.num_samples // train.global_batch
        return f"{train.epochs} epochs of {steps} steps, {train.global_batch} images a step"

    def _per_rank(self) -> str:
        return f"{self.config.train.global_batch / self.spec.num_ranks:g}"

    def _data_in_memory(self) -> str:
        """Whether a node can keep all training data in its file cache."""
        memory = self.cluster.node_memory_gb * 1e9
        if not memory and self.cluster.scheduler == "local":
            memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        if self.beton is None:
            return "unknown: there are no data"
        size = self.beton.memory.size
        if not memory:
            return f"{_gb(size)}; node_memory_gb in clusters.toml is not set"
        fits = "fits into the file cache" if size < 0.7 * memory else "will be read again every epoch"
        return f"{_gb(size)} of {_gb(memory)} per node: {fits}"


def check_batch(config: PretrainConfig, spec: JobSpec) -> Check:
    """Whether every rank gets the same number of images."""
    batch, ranks = config.train.global_batch, spec.num_ranks
    if batch % ranks == 0:
        return Check("batch", True, f"{batch} images on {ranks} ranks, {batch // ranks} each")
    below, above = batch - batch % ranks, batch + ranks - batch % ranks
    multiples = f"{below} or {above}" if below else str(above)
    said = f"global_batch is {batch}, allowed: a multiple of the {ranks} ranks, such as {multiples}"
    return Check("batch", False, f"{said}; see --train.global-batch, --nodes and --gpus")


def check_model(
    config: PretrainConfig, spec: JobSpec, cluster: Cluster, data: TrainingData
) -> tuple[Cost | None, Check]:
    """What a rank will take, and whether the model can be built and fits a GPU."""
    ranks = spec.num_ranks if config.train.global_batch % spec.num_ranks == 0 else 1
    try:
        on_gpu = _is_on_gpu(spec, cluster)
        needs = estimate(config, ranks, on_gpu, speeds_of(cluster, ranks, on_gpu), data)
    except ValueError as error:
        return None, Check("model", False, str(error))
    if ranks != spec.num_ranks:
        return None, Check("model", True, f"{needs.num_parameters / 1e6:,.1f} M parameters")
    said = f"{needs.num_parameters / 1e6:,.1f} M parameters, about {_gb(needs.memory_bytes)} on each rank"
    memory_bytes = cluster.gpu_memory_gb * 1e9
    if not memory_bytes:
        return needs, Check("model", True, said)
    has = f"{cluster.gpu_memory_gb:g} GB of a GPU of {cluster.name}"
    if needs.memory_bytes > memory_bytes:
        cure = "use more GPUs, a smaller batch, or another profile if gpu_memory_gb is wrong"
        return needs, Check("model", False, f"{said}, allowed: the {has}; {cure}")
    return needs, Check("model", True, f"{said}, of the {has}")


def check_val_data(config: PretrainConfig) -> Check:
    """Whether the evaluations that follow will have data."""
    try:
        return Check("val data", True, f"{open_beton(Path(config.data.val)).num_samples:,} images")
    except (OSError, ValueError) as error:
        return Check("val data", False, f"{error}; the evaluations need it")


def check_data(config: PretrainConfig) -> tuple[Beton | None, Check]:
    """The training data, and whether they are there and enough for a step."""
    try:
        beton = open_beton(Path(config.data.train))
        steps = batches_per_epoch(beton.num_samples, config.train.global_batch)
    except (OSError, ValueError) as error:
        return None, Check("data", False, str(error))
    return beton, Check("data", True, f"{beton.num_samples:,} images, {steps} steps an epoch")


def training_data(beton: Beton | None) -> TrainingData:
    """What a method may know of the data, as far as it is known now."""
    return TrainingData(beton.num_samples, num_classes(beton)) if beton else UNKNOWN_DATA


def say_model(config: PretrainConfig) -> str:
    """The method's networks and the sizes of the views, in one line."""
    sizes = [view.image_size for view in config.each_view]
    counts = {size: sizes.count(size) for size in dict.fromkeys(sizes)}
    usual = counts == {sizes[0]: NUM_VIEWS}
    said = f"{sizes[0]}" if usual else " + ".join(f"{count} x {size}" for size, count in counts.items())
    return f"{methods.load(config.method.name).networks(config)}, {said} px"


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
        console.print(script, soft_wrap=True, highlight=False, markup=False)
    console.rule("configuration, as options")
    for name, value in options(to_json(plan.config)):
        console.print(f"--{name} {value}", soft_wrap=True, highlight=False, markup=False)
    console.rule("plan")
    console.print(plan.table())
    if plan.needs is not None:
        on_gpu = _is_on_gpu(plan.spec, plan.cluster)
        console.rule("scaling")
        console.print(forms_table(plan.config, plan.spec.num_ranks, plan.cluster, on_gpu))
        console.print(scaling_table(plan.config, plan.num_steps, plan.cluster, on_gpu, training_data(plan.beton)))
        console.print(assumptions(plan.cluster, on_gpu), style="dim", highlight=False)
    console.rule("checks")
    console.print(checks_table(plan.checks))
    failed = any(check.passed is False for check in plan.checks)
    verdict = "[bold red]it would not start[/]" if failed else "nothing was started or submitted"
    console.print(verdict)
    return int(failed)


def options(values: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Every field of a configuration with its value, as they are given on the command line."""
    for name, value in flat(values).items():
        parts = value if isinstance(value, list) else [value]
        yield name.replace("_", "-"), " ".join(shlex.quote(str(part)) for part in parts)


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
    console.print(f"watch them with  python jobs/status.py {run} --watch", soft_wrap=True)


def _facts() -> Table:
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    return table


def _gb(num_bytes: float) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if num_bytes >= size:
            return f"{num_bytes / size:,.3g} {unit}"
    return f"{num_bytes / 1e3:,.3g} kB"


def _is_on_gpu(spec: JobSpec, cluster: Cluster) -> bool:
    return spec.uses_gpus and (cluster.scheduler == "slurm" or torch.cuda.is_available())
