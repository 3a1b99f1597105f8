"""What is checked before a job is handed over: what fails here costs seconds, in the queue it would cost hours."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from slurm import scheduler
from slurm.cluster import Cluster
from slurm.scheduler import Partition, SchedulerError
from slurm.task import JobSpec


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    name: str
    passed: bool | None
    """None: it could not be checked here."""
    said: str
    """What was found; where it failed, what is allowed and the cure."""


def check_folder(folder: Path) -> Check:
    """Whether the run folder can be written."""
    there = folder
    while not there.exists() and there != there.parent:
        there = there.parent
    try:
        tempfile.TemporaryFile(dir=there).close()  # permissions alone tell too little: root, read-only mounts, quotas
    except OSError as error:
        why = f"{there}: {error.strerror}"
        return Check("run folder", False, f"{folder} cannot be written ({why}); choose another with --run")
    free_gb = shutil.disk_usage(there).free / 1e9
    return Check("run folder", True, f"{folder} can be written, {free_gb:,.0f} GB free")


def check_cluster(spec: JobSpec, cluster: Cluster) -> list[Check]:
    """Whether the cluster has what the job asks for."""
    if cluster.scheduler != "slurm":
        return []
    try:
        partitions = scheduler.partitions()
    except SchedulerError as error:
        if shutil.which("sinfo") is None:
            return [Check("partition", None, "there is no SLURM on this machine to ask")]
        return [Check("scheduler", False, f"SLURM does not answer ({error}); on this machine alone: --cluster local")]
    names = ", ".join(partition.name for partition in partitions)
    found = [p for p in partitions if p.name == cluster.partition or (p.is_default and not cluster.partition)]
    if not found:
        wanted = f"partition is {cluster.partition!r}" if cluster.partition else "no partition is the default"
        return [Check("partition", False, f"{wanted}, allowed: {names}; choose one with --partition")]
    return [Check("partition", True, found[0].name), *_check_size(spec, cluster, found[0])]


def _check_size(spec: JobSpec, cluster: Cluster, partition: Partition) -> list[Check]:
    where = f"partition {partition.name}"

    def check(name: str, asked: str, limit: str, fits: bool, cure: str) -> Check:
        return Check(name, fits, f"{asked} asked for, {where} has {limit}" + ("" if fits else f"; {cure}"))

    nodes, gpus = spec.num_nodes, spec.ranks_per_node
    checks = [check("nodes", str(nodes), str(partition.num_nodes), nodes <= partition.num_nodes, "see --nodes")]
    if spec.uses_gpus and cluster.gres_style != "none":
        has = partition.gpus_per_node
        checks.append(check("GPUs", f"{gpus} per node", f"{has} per node", gpus <= has, "see --gpus, --partition"))
    memory_gb, has_gb = cluster.mem_per_gpu_gb * gpus, partition.memory_per_node_mb / 1024
    if memory_gb:
        cure = "see mem_per_gpu_gb in clusters.toml"
        checks.append(check("memory", f"{memory_gb:,.0f} GB", f"{has_gb:,.0f} GB per node", memory_gb <= has_gb, cure))
    limit_min = partition.time_limit_min
    fits = not limit_min or cluster.time_min <= limit_min
    longest = f"{limit_min / 60:,.1f} h at most" if limit_min else "no limit"
    checks.append(check("time", cluster.time, longest, fits, "see --time; a longer run is requeued and goes on"))
    return checks
