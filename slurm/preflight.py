"""What is checked before a job is handed over: what fails here costs seconds, in the queue it would cost hours."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from slurm import scheduler
from slurm.calls import SchedulerError
from slurm.cluster import Cluster, override, unused_variables
from slurm.scheduler import Partition
from slurm.task import JobSpec

CHOOSE = "choose one with --partition"


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    name: str
    passed: bool | None
    """None: it could not be checked here."""
    said: str
    """What was found; where it failed, what is allowed and the cure."""
    command: str = ""
    """The whole command that cures it, to be copied; empty where there is none."""

    @property
    def whole(self) -> str:
        """What was found, with the command, in one line."""
        return f"{self.said}; write it with  {self.command}" if self.command else self.said


def check_folder(folder: Path) -> Check:
    """Whether the run folder can be written."""
    there = folder
    while not os.path.exists(there) and there != there.parent:
        there = there.parent
    try:
        tempfile.TemporaryFile(dir=there).close()  # permissions alone tell too little: root, read-only mounts, quotas
    except OSError as error:
        allowed = "one that can be made and written; choose another with --run"
        return Check(
            "run folder", False, f"run folder is {str(folder)!r} ({there}: {error.strerror}), allowed: {allowed}"
        )
    free_gb = shutil.disk_usage(there).free / 1e9
    return Check("run folder", True, f"{folder} can be written, {free_gb:,.0f} GB free")


def check_cluster(spec: JobSpec, cluster: Cluster) -> list[Check]:
    """Whether the cluster has what the job asks for."""
    if cluster.scheduler != "slurm":
        return []
    own = override(cluster, time=spec.time or None, partition=spec.partition or None)
    return [*_check_environment(cluster), *_check_partition(spec, own)]


def _check_environment(cluster: Cluster) -> list[Check]:
    """What sbatch would take from the environment, and does not get."""
    unused = ", ".join(unused_variables(cluster))
    cure = "the script holds; change it by options or in clusters.toml"
    return [Check("environment", True, f"{unused} not used: {cure}")] if unused else []


def _check_partition(spec: JobSpec, cluster: Cluster) -> list[Check]:
    try:
        partitions = scheduler.partitions()
    except SchedulerError as error:
        if shutil.which("sinfo") is None:
            return [Check("partition", None, "there is no SLURM on this machine to ask")]
        said = (str(error).splitlines() or [repr(error)])[-1]
        return [Check("scheduler", False, f"SLURM does not answer ({said}); on this machine alone: --cluster local")]
    names = ", ".join(partition.name for partition in partitions)
    wanted = [name for name in cluster.partition.split(",") if name] or [p.name for p in partitions if p.is_default]
    if not wanted:
        return [Check("partition", False, f"partition is '' and none is the default, allowed: {names}; {CHOOSE}")]
    if set(wanted) - {p.name for p in partitions}:
        return [Check("partition", False, f"partition is {cluster.partition!r}, allowed: {names}; {CHOOSE}")]
    # Of several partitions SLURM takes one in which the job can start; it is enough that it fits in one.
    sizes = [_check_size(spec, cluster, p) for p in partitions if p.name in wanted]
    fitting = next((checks for checks in sizes if all(check.passed for check in checks)), sizes[0])
    return [Check("partition", True, ", ".join(wanted)), *fitting]


def _check_size(spec: JobSpec, cluster: Cluster, partition: Partition) -> list[Check]:
    where = f"partition {partition.name}"

    def check(name: str, asked: str, limit: str, fits: bool, cure: str) -> Check:
        found = f"{asked} asked for, {where} has {limit}"
        return Check(name, fits, found if fits else f"{name} is {asked}, allowed: at most {limit} in {where}; {cure}")

    nodes, gpus = spec.num_nodes + spec.spare_nodes, spec.ranks_per_node
    checks = [check("nodes", str(nodes), str(partition.num_nodes), nodes <= partition.num_nodes, "see --nodes")]
    if spec.uses_gpus and cluster.gres_style != "none":
        has = partition.gpus_per_node
        checks.append(check("GPUs per node", str(gpus), str(has), gpus <= has, "see --gpus, --partition"))
    memory_gb, has_gb = cluster.mem_per_gpu_gb * gpus, partition.memory_per_node_mb / 1024
    if memory_gb:
        cure = "see mem_per_gpu_gb in clusters.toml"
        fits = memory_gb <= has_gb
        checks.append(check("memory per node", f"{memory_gb:,.0f} GB", f"{has_gb:,.0f} GB", fits, cure))
    limit_min = partition.time_limit_min
    fits = not limit_min or cluster.time_min <= limit_min
    longest = f"{limit_min / 60:,.1f} h" if limit_min else "no limit"
    checks.append(check("time", cluster.time, longest, fits, "see --time; a longer run is requeued and goes on"))
    return checks
