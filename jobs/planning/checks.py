"""What is checked of a pretraining job before it is one: batch, model and memory, data."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

from dataprep.beton.contract import Beton, open_beton
from jobs.planning.scaling import speeds_of, three_digits
from jobs.planning.writing_commands import missing, writing_command
from slurm.cluster import Cluster
from slurm.preflight import Check
from slurm.task import JobSpec
from vicreg.config import PretrainConfig
from vicreg.cost.estimate import Cost, estimate
from vicreg.cost.fitting import cure
from vicreg.data.batches import num_classes
from vicreg.data.channels import require_channels
from vicreg.method import UNKNOWN_DATA, TrainingData
from vicreg.views.order import batches_per_epoch

VAL_DATA = "val data"


def check_batch(config: PretrainConfig, spec: JobSpec) -> Check:
    """Whether every rank gets the same number of images or clips."""
    batch, ranks, things = config.train.global_batch, spec.num_ranks, config.model.sound.samples_are
    if batch % ranks == 0:
        return Check(
            "batch", True, f"{batch} {things} on {ranks} {'rank' if ranks == 1 else 'ranks'}, {batch // ranks} each"
        )
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
        on_gpu = is_on_gpu(spec, cluster)
        needs = estimate(config, ranks, on_gpu, speeds_of(cluster, ranks, on_gpu), data)
    except ValueError as error:
        return None, Check("model", False, str(error))
    if ranks != spec.num_ranks:
        return None, Check("model", True, f"{needs.num_parameters / 1e6:,.1f} M parameters")
    said = f"{needs.num_parameters / 1e6:,.1f} M parameters, about {gb(needs.memory_bytes)} on each rank"
    memory_bytes, has = _memory_of_rank(spec, cluster, on_gpu)
    if not memory_bytes:
        return needs, Check("model", True, said)
    if needs.memory_bytes > memory_bytes:
        fits = f"take {cure(config, ranks, memory_bytes, on_gpu, data)}"
        fits += ", or another profile if gpu_memory_gb is wrong" if on_gpu and cluster.gpu_memory_gb else ""
        return needs, Check("model", False, f"{said}, allowed: the {has}; {fits}")
    return needs, Check("model", True, f"{said}, of the {has}")


def _memory_of_rank(spec: JobSpec, cluster: Cluster, on_gpu: bool) -> tuple[float, str]:
    """Bytes that a rank can have, 0 where that is unknown, and whose they are."""
    if on_gpu and cluster.gpu_memory_gb:
        return cluster.gpu_memory_gb * 1e9, f"{cluster.gpu_memory_gb:g} GB of a GPU of {cluster.name}"
    if on_gpu and cluster.scheduler == "local":
        total = torch.cuda.get_device_properties(0).total_memory
        return total, f"{gb(total)} of a GPU here"
    memory = 0 if on_gpu else node_memory_bytes(cluster)
    share = f", shared by {spec.ranks_per_node} ranks" if spec.ranks_per_node > 1 else ""
    return memory / spec.ranks_per_node, f"{gb(memory)} of a machine{share}"


def node_memory_bytes(cluster: Cluster) -> float:
    """Main memory of a node, 0 where it is unknown; of this machine what its container may have, too."""
    if cluster.node_memory_gb or cluster.scheduler != "local":
        return cluster.node_memory_gb * 1e9
    try:
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())
    except (OSError, ValueError):  # another kind of cgroup, or "max"
        limit = sys.maxsize
    return min(limit, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def check_cores(spec: JobSpec, cluster: Cluster) -> list[Check]:
    """What ranks without GPUs have of this machine, where there are several."""
    if cluster.scheduler != "local" or spec.ranks_per_node == 1 or is_on_gpu(spec, cluster):
        return []
    cores, ranks = len(os.sched_getaffinity(0)), spec.ranks_per_node
    if ranks > cores:
        said = f"no GPU here: {ranks} CPU ranks on {cores} cores, {cores / ranks:.2g} each; allowed, and slower than"
        return [Check("cores", None, f"{said} --gpus {cores}")]
    each = f"{cores // ranks} {'core' if cores // ranks == 1 else 'cores'} each"
    return [Check("cores", True, f"no GPU here: {ranks} CPU ranks, {each}")]


def check_val_data(config: PretrainConfig, is_needed: bool) -> Check:
    """Whether what is measured, by this command if `is_needed`, or by a later one, will have data."""
    path = Path(config.data.val)
    if not path.is_file():
        said = f"{path}: no such file; the evaluations need it"
        return Check(VAL_DATA, False if is_needed else None, said, writing_command(path))
    try:
        beton = open_beton(path)
        require_channels(config.data, beton)
        return Check(VAL_DATA, True, f"{beton.num_samples:,} {config.model.sound.samples_are}")
    except (OSError, ValueError) as error:
        return Check(VAL_DATA, False if is_needed else None, f"{error}; the evaluations need it")


def check_data(config: PretrainConfig) -> tuple[Beton | None, Check]:
    """The training data, and whether they are there and enough for a step."""
    path, batch = Path(config.data.train), config.train.global_batch
    if not path.exists():
        return None, missing(path)
    try:
        beton = open_beton(path)
        require_channels(config.data, beton)
    except (OSError, ValueError) as error:
        return None, Check("data", False, str(error))
    num, things = beton.num_samples, config.model.sound.samples_are
    if batch > num:
        fits = 1 << (max(num // 8, 2).bit_length() - 1)
        said = f"global_batch is {batch}, and {path} has {num:,} {things}; allowed: 2 to {num}, and enough for several"
        return beton, Check("data", False, f"{said} steps an epoch: --train.global-batch {fits}")
    return beton, Check("data", True, f"{num:,} {things}, {batches_per_epoch(num, batch)} steps an epoch")


def training_data(beton: Beton | None) -> TrainingData:
    """What a method may know of the data, as far as it is known now."""
    return TrainingData(beton.num_samples, num_classes(beton)) if beton else UNKNOWN_DATA


def gb(num_bytes: float) -> str:
    """With three digits."""
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if num_bytes >= size:
            return f"{three_digits(num_bytes / size)} {unit}"
    return f"{three_digits(num_bytes / 1e3)} kB"


def is_on_gpu(spec: JobSpec, cluster: Cluster) -> bool:
    """Whether the ranks will have GPUs."""
    return spec.uses_gpus and (cluster.scheduler == "slurm" or torch.cuda.is_available())
