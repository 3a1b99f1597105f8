"""What an evaluation's job asks a cluster for: as much as its work is estimated to take, with a margin.

A job that was given too little time is requeued, and goes on where it was.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from border.text import did_you_mean
from dataprep.beton.contract import open_beton
from jobs.planning.checks import gb, is_on_gpu
from jobs.planning.pieces import Piece
from slurm.cluster import Cluster
from slurm.job_size import JobSize, read_size
from slurm.task import JobSpec
from vicreg.config import PretrainConfig
from vicreg.cost.evaluations import forward_flops, images_passed, seconds_beside
from vicreg.losses.forms import DEFAULT_SPEEDS
from vicreg.one_branch import branch

MARGIN = 3.0
START_MIN = 15
"""Minutes beside the work: the start of all ranks, other nodes' pace."""
LONG_S = 2 * 3600.0
"""Work that one GPU would do for longer is shared among more."""
DECODED_PER_S = 400.0
"""Images that one CPU core decodes and resizes (docs/performance.md)."""
LARGE_IMAGES = ("detection", "linear_segmentation")
"""Modules of which a rank's memory is estimated."""
REPORT = "report"
REPORT_SIZE = JobSize(nodes=1, time="0:30:00")
"""No estimate: it reads files."""


def read_sizes(texts: Iterable[str], names: Sequence[str]) -> dict[str, JobSize]:
    """What JOB.KEY=VALUE texts say; ValueError with what is allowed.

    names: those of the jobs.
    """
    found: dict[str, dict[str, Any]] = {}
    for text in texts:
        place, equals, value = text.partition("=")
        name, dot, key = place.rpartition(".")
        if not (equals and dot):
            raise ValueError(f"--jobs {text}: allowed: JOB.KEY=VALUE, such as knn.time=0:30:00 or linear.gpus=4")
        if name not in names:
            meant, allowed = did_you_mean(name, names), ", ".join(names)
            raise ValueError(f"--jobs {text}: there is no job {name!r}{meant}, allowed: {allowed}")
        is_number = key in ("nodes", "gpus") and value.isascii() and value.isdecimal()
        found.setdefault(name, {})[key] = int(value) if is_number else value
    return {name: read_size(f"--jobs {name}", values) for name, values in found.items()}


def size_of(
    name: str,
    pieces: Sequence[Piece],
    config: PretrainConfig,
    cluster: Cluster,
    given: Mapping[str, JobSize],
    usual: JobSize,
    nodes: int = 1,
) -> JobSize:
    """The size of an evaluation's job: what is given for it, else `usual`, else the profile's, else the estimate.

    pieces: what the job does. nodes: where nothing says how many.
    """
    said = given.get(name, JobSize()).or_else(usual).or_else(cluster.jobs.get(name, JobSize()))
    work_s = sum(_seconds(piece, config, cluster) for piece in pieces)
    gpus = min(cluster.gpus_per_node, 1 << max(0, math.ceil(math.log2(max(work_s, 1.0) / LONG_S))))
    gpus = said.gpus or gpus
    nodes = said.nodes or nodes
    minutes = START_MIN + math.ceil(MARGIN * work_s / (gpus * nodes) / 60)
    least = math.ceil(2 * cluster.signal_lead_s / 60)
    minutes = min(max(minutes, least), cluster.time_min)
    return said.or_else(JobSize(nodes, gpus, f"{minutes // 60}:{minutes % 60:02d}:00"))


def size_of_report(cluster: Cluster, given: Mapping[str, JobSize]) -> JobSize:
    """The size of the report's job, on the partition for jobs without GPUs where there is one."""
    said = given.get(REPORT, JobSize()).or_else(cluster.jobs.get(REPORT, JobSize()))
    usual = REPORT_SIZE if cluster.time_min > 30 else JobSize(nodes=1)
    return said.or_else(JobSize(partition=cluster.cpu_partition)).or_else(usual)


def say_needs(pieces: Sequence[Piece], config: PretrainConfig, spec: JobSpec, cluster: Cluster) -> str:
    """What a job of these pieces will take, in one line: time, and memory where large images need much of it."""
    on_gpu, ranks = is_on_gpu(spec, cluster), spec.num_ranks
    seconds = sum(_seconds(piece, config, cluster, on_gpu) for piece in pieces) / ranks
    said = f"about {timedelta(seconds=round(seconds))} (h:mm:ss) for {ranks} {'rank' if ranks == 1 else 'ranks'}"
    large = [piece for piece in pieces if piece.module in LARGE_IMAGES]
    try:
        return said + (f"; {_say_memory(large, config, ranks, on_gpu, cluster)}" if large else "")
    except (OSError, ValueError) as error:
        return f"{said}; memory: {error}"


def _say_memory(pieces: Sequence[Piece], config: PretrainConfig, ranks: int, on_gpu: bool, cluster: Cluster) -> str:
    from vicreg.evals.memory import peak_bytes  # imports torchvision's detectors

    peak, has_bytes = 0, 1e9 * cluster.gpu_memory_gb
    for piece in pieces:
        model, betons = branch(config.model, piece.encoder), (Path(piece.train), Path(piece.val))
        peak = max(peak, peak_bytes(piece.module, piece.settings, model, *betons, ranks, on_gpu))
    said = f"memory of a rank: about {gb(peak)}"
    if on_gpu and 0 < has_bytes < peak:
        said += (
            f", more than the {gb(has_bytes)} of a GPU of {cluster.name}: take more GPUs, or a smaller batch (--set)"
        )
    return said


def _seconds(piece: Piece, config: PretrainConfig, cluster: Cluster, on_gpu: bool = True) -> float:
    """What a piece takes one GPU and its cores, or one rank without."""
    try:
        num_train, num_val = (open_beton(Path(path)).num_samples for path in (piece.train, piece.val))
    except (OSError, ValueError):
        return LONG_S  # it is written while the job waits
    images = images_passed(piece.module, piece.settings, num_train, num_val, config.data.image_size)
    tflops = (cluster.gpu_tflops or DEFAULT_SPEEDS["cuda"].tflops) if on_gpu else DEFAULT_SPEEDS["cpu"].tflops
    arithmetic_s = images * forward_flops(config.model, config.data.image_size) / (tflops * 1e12)
    return max(arithmetic_s, images / (DECODED_PER_S * cluster.cpus_per_gpu)) + seconds_beside(piece.module)
