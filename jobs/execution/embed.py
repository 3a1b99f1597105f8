"""Features out: what a run's encoder says of any images, as a file with a row for each; here or on a cluster.

A folder, a list, shards or parquet are first written into a beton in the run folder by the project's own writer, which
stays for the next time. Stopped, the same command goes on: features are kept in parts until the file is there.
"""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from border.terminal import Terminal
from dataprep.beton.contract import Beton, BetonError, open_beton
from dataprep.beton.manifest import class_names, has_labels, manifest_path, manifest_samples
from jobs.execution import eval_all
from jobs.execution.joined_ranks import joined
from jobs.options.embed import Command
from jobs.planning.cli import (
    INTERRUPTED_EXIT_CODE,
    LOG_WIDTH,
    sizes_of,
    user_errors,
)
from jobs.planning.image_sets import ImageSet, digest
from jobs.planning.plan import show_submitted
from jobs.planning.run_folder import CHECKPOINTS, read_run, require_finished
from jobs.reporting import feature_file
from jobs.reporting.feature_file import BLOCK_ROWS, Blocks, Description
from slurm import chain, given_place
from slurm.attempts import Pulse
from slurm.chain import Member
from slurm.hang_watchdog import Watchdog
from slurm.requeue import StopFlag
from slurm.task import JobSpec, Task
from vicreg.config import DataConfig
from vicreg.config_json import to_json
from vicreg.evals.data_identity import FRAMED_BY, fingerprint
from vicreg.evals.features import Features, Splits, compute_features
from vicreg.evals.layers import open_network
from vicreg.exchange.encoder_file import checksum, load_encoder
from vicreg.model import num_features
from vicreg.ranks import distributed
from vicreg.run_files import encoder_path

PARTS = "features"  # in the job's folder, until the file is there
PRESENT = 1  # in a label vector


@dataclass(frozen=True)
class Wanted:
    """What is to be embedded and where it goes; JSON-able, so that a job finds the same."""

    run: str
    images: ImageSet
    out: str
    layer: str = ""
    encoder: str = ""

    @property
    def name(self) -> str:
        """Of its job."""
        return f"embed-{digest(self.images.beton, self.out, self.layer, self.encoder)}"

    @classmethod
    def from_arguments(cls, arguments: dict[str, Any]) -> Wanted:
        """From a job's JSON."""
        return cls(**{**arguments, "images": ImageSet(**arguments["images"])})


def carry_out(command: Command) -> int:
    """Check, compute or submit; returns the exit code."""
    console = Terminal(quiet=not given_place.speaks())
    cluster = command.place.profile()
    run = command.run.absolute() if cluster.scheduler == "slurm" else command.run
    config, _ = read_run(run)
    require_finished(run)
    encoder = "" if command.encoder == "a" else command.encoder
    if command.layer:  # one that is not there, before a job
        open_network(run, config, run / CHECKPOINTS, command.layer, encoder)
    images = ImageSet.of(command.images, run, command.split, command.unlabelled, config.model.channels)
    wanted = Wanted(str(run), images, str(command.out.absolute()), command.layer, encoder)
    require_own(wanted, command.overwrite)
    chain_members = members(wanted, command.place.num_nodes(), command.place.ranks_per_node(cluster))
    if command.place.dry_run:
        return eval_all.show_scripts(run, chain_members, cluster, console)
    if cluster.scheduler == "slurm":
        eval_all.require_checks(run, chain_members[-1].spec, cluster)
        show_submitted(run, chain.submit(run, chain_members, cluster), console)
        return 0
    return 0 if chain.run_here(run, chain_members, cluster) else INTERRUPTED_EXIT_CODE


def require_own(wanted: Wanted, overwrite: bool) -> None:
    """ValueError where the file to be written is that of other images, or not one of this command."""
    out = Path(wanted.out)
    if overwrite or not out.exists():
        return
    try:
        there = feature_file.described(out)
        same = (there["images"], there["layer"]) == (wanted.images.given, wanted.layer)
    except (OSError, ValueError):
        same = False
    if not same:
        raise ValueError(f"{out} is there, of something else; --overwrite replaces it, or choose another --out")


def members(wanted: Wanted, nodes: int = 1, ranks_per_node: int = 1) -> list[Member]:
    """The job that writes the beton, where one is needed, and the job that makes the features."""
    before: list[Member] = []
    if not wanted.images.is_beton:
        spec = JobSpec(
            f"images-{wanted.images.beton.stem}",
            "jobs.embed.write_job",
            {"images": asdict(wanted.images)},
            uses_gpus=False,
        )
        before = [Member(spec)]
    reads = sizes_of([str(wanted.images.beton)])
    spec = JobSpec(wanted.name, "jobs.embed.embed_job", {"wanted": asdict(wanted)}, nodes, ranks_per_node, reads=reads)
    return [*before, Member(spec, tuple(member.spec.name for member in before))]


def write_job(task: Task, stop: StopFlag, images: dict[str, Any]) -> bool:
    """The images as a beton, in one process with its workers."""
    stop.interrupt_at_once()
    console = Terminal() if task.has_terminal else Terminal(force_terminal=False, width=LOG_WIDTH)
    with user_errors("stopped; the same command goes on from there", note=task.note_error):
        ImageSet(**images).write(lambda text: console.print(text, highlight=False, soft_wrap=True))
    return True


def embed_job(task: Task, stop: StopFlag, wanted: dict[str, Any]) -> bool:
    """What every rank does: the features of its part of the images; rank 0 writes them all."""
    what = Wanted.from_arguments(wanted)
    run, out = Path(what.run), Path(what.out)
    shown = out.relative_to(Path.cwd()) if out.is_relative_to(Path.cwd()) else out
    folder = chain.job_folder(run, what.name)
    stop.interrupt_at_once()
    with joined(task, folder, "stopped; the same command goes on from there") as (console, placement, watchdog):
        config, _ = read_run(run)
        device = distributed.device_for(placement)
        beton = open_beton(what.images.beton)
        description = describe(what, beton, config.data)
        if distributed.from_rank_0(int(feature_file.is_current(out, description))):
            if task.rank == 0:
                console.print(f"{shown} is there already, of the same images", highlight=False, soft_wrap=True)
            return True
        network = open_network(run, config, run / CHECKPOINTS, what.layer, what.encoder)
        splits = splits_of(config.data, beton.path, device, config.data.workers or placement.num_threads)
        pulse = Pulse(folder, -(-beton.num_samples // (splits.batch * placement.world_size)) + 1)
        splits = replace(splits, parts=folder / PARTS / digest(what.layer), heard=_counted(pulse, watchdog, task.rank))
        with watchdog.phase("a measurement"):
            features = compute_features(network, splits, "val")
            parts = blocks(features, splits)
            if task.rank == 0:
                stop.require_owner()
                names, labels = names_of(beton), labels_of(beton)
                feature_file.write(out, names, labels, num_features(network), parts, description)
                said = f"{shown}: {beton.num_samples:,} images, {num_features(network):,} features each"
                console.print(said, highlight=False, soft_wrap=True)
            else:
                for _ in parts:  # all ranks must hand out their rows together
                    pass
        distributed.barrier()
        if task.rank == 0:
            shutil.rmtree(folder / PARTS, ignore_errors=True)
    return True


def _counted(pulse: Pulse, watchdog: Watchdog, rank: int) -> Any:
    """What is called after each batch: the rank lives, and rank 0 says how far it is."""
    done = 0

    def heard() -> None:
        nonlocal done
        done += 1
        watchdog.heard()
        if rank == 0:
            pulse.beat(done)

    return heard


def splits_of(data: DataConfig, beton: Path, device: Any, workers: int) -> Splits:
    """The images of a beton as the evaluations measure them."""
    return Splits(replace(data, train=str(beton), val=str(beton), on_bad="fail"), 0, device, workers)


def describe(wanted: Wanted, beton: Beton, data: DataConfig) -> Description:
    """What the features are of, by which they are known again."""
    path = encoder_path(Path(wanted.run), wanted.encoder)
    return {
        "encoder_sha256": checksum(load_encoder(path)),
        "layer": wanted.layer,
        "images": wanted.images.given,
        "beton": str(beton.path.absolute()),
        "beton_sha256": fingerprint(beton),
        "num_images": beton.num_samples,
        "framed": {name: value for name, value in to_json(data).items() if name in FRAMED_BY},
    }


def blocks(features: Features, splits: Splits) -> Blocks:
    """All rows in order, some at a time; every rank must ask."""
    for begin in range(0, len(features.labels), BLOCK_ROWS):
        rows = np.arange(begin, min(begin + BLOCK_ROWS, len(features.labels)), dtype=np.int64)
        yield features.rows(rows, splits.device).cpu().numpy()


def names_of(beton: Beton) -> list[str]:
    """The file of each image as its manifest names it; where there is none, its place in the beton."""
    if manifest_path(beton.path).exists():
        return [name for name, _ in manifest_samples(beton.path)]
    return [str(sample) for sample in range(beton.num_samples)]


def labels_of(beton: Beton) -> list[str]:
    """The class of each image by its name, or its number where there are no names; of several, all joined by commas."""
    if not has_labels(beton.path):
        return []
    try:
        names = class_names(beton.path)
    except BetonError:
        names = None
    if beton.labels.ndim == 1:
        return [names[label] if names else str(label) for label in beton.labels.tolist()]
    numbers = [np.flatnonzero(vector == PRESENT).tolist() for vector in beton.labels]
    return [",".join(names[number] if names else str(number) for number in present) for present in numbers]
