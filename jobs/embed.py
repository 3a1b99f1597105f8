"""Features out: what a run's encoder says of any images, as a file with a row for each; here or on a cluster.

A folder, a list, shards or parquet are first written into a beton in the run folder by the project's own writer, which
stays for the next time. Stopped, the same command goes on: features are kept in parts until the file is there.
"""

from __future__ import annotations

import shutil
import sys
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

if __name__ == "__main__":  # the tree that this file stands in, whatever is installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import tyro

from border.terminal import Terminal
from dataprep.beton.contract import Beton, BetonError, open_beton
from dataprep.beton.manifest import class_names, has_labels, manifest_path, manifest_samples
from disk.closed_pipe import quietly
from jobs import eval_all
from jobs.planning.cli import (
    INTERRUPTED_EXIT_CODE,
    LOG_WIDTH,
    PlaceOptions,
    configure_logging,
    placement_of,
    sizes_of,
    user_errors,
)
from jobs.planning.image_sets import ImageSet, digest
from jobs.planning.plan import show_submitted
from jobs.planning.run_folder import CHECKPOINTS, read_run, require_finished, require_same_code
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
from vicreg.exchange.encoder_file import checksum, encoder_path, load_encoder
from vicreg.model import branch, num_features
from vicreg.ranks import distributed
from vicreg.ranks.meeting import require_agreement
from vicreg.ranks.rendezvous import connected

PARTS = "features"  # in the job's folder, until the file is there
PRESENT = 1  # in a label vector


@dataclass(frozen=True)
class Command:
    """Write the features of images, as a finished run's encoder sees them, to a file with a row for each image."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder of jobs/pretrain.py or jobs/import_encoder.py."""
    images: Path
    """A beton, or what write_ffcv.py folder reads: a folder, a list (.csv, .tsv), tar shards, parquet."""
    out: Path
    """File to write: .parquet (columns file, label, features), .csv (file, label, f0, f1, ...), or .npy (the features
    alone; file and label of its rows lie beside it in NAME.files.csv)."""
    layer: str = ""
    """Layer whose output is taken, by its name in the encoder (layer3, blocks.11), or expander; empty: the encoder's
    features. Maps are averaged over their places, tokens over the tokens."""
    encoder: str = ""
    """Which of the run's encoders, where it has several (b: the second branch's); empty: the first."""
    split: str = ""
    """Part of a folder or list that has several."""
    unlabelled: bool = False
    """Folders are no classes."""
    overwrite: bool = False
    """Replace a file of something else."""
    place: Annotated[PlaceOptions, tyro.conf.arg(name="")] = field(default_factory=PlaceOptions)


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


def main(arguments: list[str]) -> int:
    """Parse, check, compute or submit; returns the exit code."""
    console = Terminal(quiet=not given_place.speaks())
    with user_errors("stopped; the same command goes on from there"):
        command = tyro.cli(Command, args=arguments, config=(tyro.conf.FlagCreatePairsOff,))
        cluster = command.place.profile()
        run = command.run.absolute() if cluster.scheduler == "slurm" else command.run
        config, _ = read_run(run)
        require_finished(run)
        branch(config.model, command.encoder)  # raises what it objects to
        feature_file.require_suffix(command.out)
        encoder = "" if command.encoder == "a" else command.encoder
        open_network(run, config, run / CHECKPOINTS, command.layer, encoder)  # a layer that is not there, before a job
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
    console = Terminal() if task.has_terminal else Terminal(force_terminal=False, width=LOG_WIDTH)
    configure_logging(console, task, folder)
    placement = placement_of(task)
    stop.interrupt_at_once()
    with (
        user_errors("stopped; the same command goes on from there", note=task.note_error),
        connected(placement, task.rendezvous, task.rendezvous_timeout_s, task.is_given),
        closing(Watchdog(task)) as watchdog,
    ):
        require_same_code(placement.name(task.rank))
        require_agreement(placement)
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


if __name__ == "__main__":
    sys.exit(quietly(lambda: main(sys.argv[1:])))
