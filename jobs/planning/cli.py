"""What all commands share: how they say an error, where they log, the flags that say where a job runs."""

from __future__ import annotations

import logging
import os
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

from rich.console import Console
from rich.logging import RichHandler
from rich.text import Text

from border.documents import read_json
from border.terminal import Terminal, log_to
from border.text import visible, visible_lines
from jobs.planning import hints
from slurm import cluster, given_place
from slurm.calls import SchedulerError
from slurm.cluster import Cluster
from slurm.local import JobFailed
from slurm.owner import Superseded
from slurm.task import Task

if TYPE_CHECKING:  # torch takes two seconds to import, and not every command needs it
    from vicreg.ranks.distributed import Placement

TRACEBACK_VARIABLE = "VICREG_TRACEBACK"
CONFIG_FILE = "config.json"  # in a run folder: what was asked for, resolved
TITLE_WIDTH = 10  # columns of a summary's titles
LOG_WIDTH = 160  # columns of what goes to a log
INTERRUPTED_EXIT_CODE = 130  # as shells have it: 128 + SIGINT


class RunFile(TypedDict):
    """What every config.json of a run folder has; provenance stands beside it, for whoever wants to show it."""

    pretrain: dict[str, Any]
    schema: NotRequired[int]
    recipe: NotRequired[str]
    imported: NotRequired[dict[str, Any]]
    beginning: NotRequired[dict[str, Any]]


def read_run_file(run: Path) -> RunFile:
    """A run folder's config.json; ValueError with the cure for a damaged one."""
    return read_json(run / CONFIG_FILE, RunFile, "its checkpoints may be whole")


@contextmanager
def user_errors(when_interrupted: str = "", note: Callable[[str, bool], None] | None = None) -> Iterator[None]:
    """Turn an error that a user can cause into one clear message and exit code 1; Ctrl-C into exit code 130.

    `note` gets the message too, and whether the same would happen again.
    """
    typed = hints.typed()
    try:
        yield
    except BrokenPipeError:  # who reads the output has seen enough
        raise
    except Exception as error:
        if not _is_expected(error):
            raise
        if note:
            note(str(error), _is_hopeless(error))
        if os.environ.get(TRACEBACK_VARIABLE):
            raise
        said = Text.assemble(("error:", "bold red"), " ", visible_lines(error))
        Terminal(stderr=True, soft_wrap=True).print(said, highlight=False)
        sys.exit(1)
    except KeyboardInterrupt:
        if when_interrupted:
            Terminal(soft_wrap=True).print(when_interrupted, highlight=False)
        sys.exit(INTERRUPTED_EXIT_CODE)
    finally:
        hints.remember(typed)


def _is_expected(error: Exception) -> bool:
    """Whether a user can cause this error."""
    if isinstance(error, ValueError | OSError | JobFailed | SchedulerError | Superseded):
        return True
    from vicreg.ranks.rendezvous import RendezvousError
    from vicreg.training.guards import TrainingDiverged

    return isinstance(error, RendezvousError | TrainingDiverged)


def _is_hopeless(error: Exception) -> bool:
    """Whether another try, on whatever node, would end in the same way."""
    from dataprep.beton.contract import BadSample
    from vicreg.evals.results import CannotMeasure
    from vicreg.training.guards import TrainingDiverged

    return isinstance(error, BadSample | CannotMeasure | TrainingDiverged)


def configure_logging(console: Console, task: Task, folder: Path) -> None:
    """Where there is a terminal, rank 0 logs to it and, with times, to `folder/rank_0.log`.

    The output of all other ranks is their log already.
    """
    with_times = "%(asctime)s %(levelname)s %(name)s: %(message)s"
    if not task.has_terminal:
        log_to({logging.StreamHandler(sys.stdout): with_times})
        return
    folder.mkdir(parents=True, exist_ok=True)
    to_console = RichHandler(console=console, show_time=False, show_path=False, show_level=False, markup=False)
    log_to({logging.FileHandler(folder / "rank_0.log"): with_times, to_console: "%(message)s"})


def show_summary(console: Console, lines: list[tuple[str, str]]) -> None:
    """Titles and texts, wrapped beside their titles; paths and flags stay whole."""
    for title, text in lines:
        parts = textwrap.wrap(
            visible(text), console.width - TITLE_WIDTH, break_long_words=False, break_on_hyphens=False
        )
        console.print(Text.assemble((f"{title:<{TITLE_WIDTH}}", "bold"), parts[0]), soft_wrap=True)
        for part in parts[1:]:
            console.print(" " * TITLE_WIDTH + part, soft_wrap=True, highlight=False)


def show_commands(console: Console, title: str, commands: list[str]) -> None:
    """Lines to be copied: never wrapped."""
    console.print(title, style="bold", highlight=False)
    for line in commands:
        console.print(f"    {line}", soft_wrap=True, highlight=False)


def placement_of(task: Task) -> Placement:
    """A rank's place, as the core wants to know it."""
    from vicreg.ranks.distributed import Placement

    return Placement(
        task.rank,
        task.world_size,
        task.local_rank,
        task.local_size,
        task.cpus,
        task.hosts,
        task.interconnect_gb_s,
        task.interconnect_latency_us,
    )


def sizes_of(files: Iterable[str]) -> dict[str, int]:
    """Bytes of each of the files that is there, by its absolute path: what each node must be able to read."""
    return {str(Path(name).absolute()): Path(name).stat().st_size for name in files if Path(name).is_file()}


@dataclass(frozen=True)
class PlaceOptions:
    """Where a job runs; what is not given comes from the cluster's profile in clusters.toml."""

    cluster: str = ""
    """Profile; $VICREG_CLUSTER if none is given, else slurm where there is sbatch, else local (this machine)."""
    nodes: int = 1
    """Machines."""
    gpus: int = 0
    """GPUs per node, one rank each; 0 for the profile's number, or those of this machine (none: one rank, on CPUs)."""
    time: str | None = None
    """Longest duration of one submission, as HH:MM:SS or D-HH:MM:SS; a longer run is requeued and goes on."""
    partition: str | None = None
    """SLURM partition."""
    account: str | None = None
    """Account that pays."""
    qos: str | None = None
    """Quality of service."""
    constraint: str | None = None
    """Features that the nodes must have."""
    exclude: str | None = None
    """Nodes to leave out."""
    reservation: str | None = None
    """Reservation to run in."""
    dry_run: bool = False
    """Print the script, the configuration, the plan and all checks; start and submit nothing."""

    def __post_init__(self) -> None:
        if self.nodes < 1:
            raise ValueError(f"nodes is {self.nodes}, allowed: 1 or more")
        if self.gpus < 0:
            raise ValueError(f"gpus is {self.gpus}, allowed: 0 (the cluster's number) or more")

    def profile(self) -> Cluster:
        """The cluster's profile with what the command line changes; ValueError with what is allowed otherwise."""
        changed = {
            name: getattr(self, name)
            for name in ("time", "partition", "account", "qos", "constraint", "exclude", "reservation")
        }
        hints.remember(self.cluster)
        if given_place.place() is None:
            return cluster.override(cluster.load(self.cluster), **changed)
        return replace(cluster.load(self.cluster), scheduler="local")

    def num_nodes(self) -> int:
        """Machines: as many as are asked for, or given."""
        given = given_place.place()
        return given.world_size // given.local_size if given else self.nodes

    def require_possible(self, profile: Cluster) -> None:
        """ValueError with what is allowed for numbers that cannot be, whatever GPUs there are."""
        if given := given_place.place():
            if self.gpus not in (0, given.local_size) or self.nodes not in (1, self.num_nodes()):
                raise ValueError(
                    f"nodes is {self.nodes} and gpus {self.gpus}, allowed: nothing else than what has started this "
                    f"rank says ({self.num_nodes()} and {given.local_size}); leave both out"
                )
        elif profile.scheduler == "local" and self.nodes > 1:
            raise ValueError(
                f"nodes is {self.nodes}, allowed on cluster {profile.name} (this machine): 1; "
                "for more, use a cluster with SLURM: --cluster NAME, see clusters.toml"
            )

    def ranks_per_node(self, profile: Cluster) -> int:
        """One rank per GPU; ValueError with what is allowed for numbers that cannot be."""
        self.require_possible(profile)
        if given := given_place.place():
            return given.local_size
        if profile.scheduler == "slurm":
            return self.gpus or profile.gpus_per_node
        import torch

        here = torch.cuda.device_count()
        if here and self.gpus > here:
            raise ValueError(f"gpus is {self.gpus}, allowed: up to the number of GPUs here, {here}")
        return self.gpus or max(1, here)


@dataclass(frozen=True)
class TrainingPlace(PlaceOptions):
    """Where a pretraining runs."""

    spare_nodes: int = 0
    """Machines beside these that only take the place of one that fails."""

    def require_possible(self, profile: Cluster) -> None:
        """As of any job; ValueError for spare nodes where there can be none, too."""
        if self.spare_nodes < 0 or (self.spare_nodes and profile.scheduler != "slurm"):
            raise ValueError(f"spare-nodes is {self.spare_nodes}, allowed: 0 or, on a cluster with SLURM, more")
        super().require_possible(profile)
