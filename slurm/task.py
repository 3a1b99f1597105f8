"""One rank of a job: where it stands, what it runs, how it says that it failed or was asked to stop.

A job is a dotted function name and JSON-able arguments, nothing pickled; its state lives in the run folder.
`python slurm/task.py JOB_FOLDER START_FOLDER` is what srun starts on every rank.
"""

from __future__ import annotations

import faulthandler
import importlib
import json
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # the tree that this file stands in, whatever is installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from border.documents import checked, parse_json, read_json
from border.terminal import complain
from border.waiting_threads import wait_asleep
from disk.whole_files import write_text
from slurm import fitness, orphans
from slurm.owner import Claim
from slurm.requeue import StopFlag
from slurm.stage_data import stage

log = logging.getLogger(__name__)

JOB_FILE = "job.json"
FINISHED_FILE = "finished"
ERROR, UNFIT, SIGNAL, LEFT = "error", "unfit", "signal", "left"
"""What a rank notes: the first error, why its node cannot take part, the first stop signal, its end."""
HOPELESS = "hopeless"  # and an error that would be the same again
HOSTS_VARIABLE = "VICREG_HOSTS"  # the nodes of a job, as JSON
CLAIM_VARIABLE = "VICREG_CLAIM"  # the file that lets an attempt write
UNFIT_EXIT_CODE = 69  # sysexits.h: service unavailable
SUPERSEDED_EXIT_CODE = 75  # sysexits.h: temporary failure
LOOK_EVERY_S = 1.0  # so often ranks that do not write look whether another attempt has taken over
SUPERSEDED_GRACE_S = 5.0

JobFunction = Callable[..., bool | None]
"""Called as function(task, stop, **arguments); False says that it stopped early and wants to go on later."""


@dataclass(frozen=True)
class Task:
    """One rank of a job, and the folder in which the ranks of this one start meet."""

    rank: int
    world_size: int
    local_rank: int
    local_size: int
    start_folder: str
    """New for every start, visible to all ranks."""
    cpus: int = 0
    """CPU cores of each rank; 0: an equal share of the machine's."""
    hosts: tuple[str, ...] = ()
    """The machine of each rank, for messages."""
    rendezvous_timeout_s: float = 300.0
    hang_timeout_s: float = 1800.0
    interconnect_gb_s: float = 0.0
    """What one rank can send to the others; 0: not known, as for the latency."""
    interconnect_latency_us: float = 0.0
    claim: str = ""
    """The file that lets this attempt write: it goes when another attempt takes over (slurm/owner.py)."""
    is_given: bool = False
    """Whether somebody else has started this rank (slurm/given_ranks.py), and says in the environment where to meet."""
    has_terminal: bool = False
    """Whether somebody watches this rank; otherwise its output goes to its log."""

    @property
    def rendezvous(self) -> Path:
        """The file through which the ranks find each other."""
        return Path(self.start_folder) / "rendezvous.json"

    def note(self, kind: str, message: str) -> None:
        """Keep a word where whoever started the ranks looks for it; the first of its kind stays, it is the cause."""
        path = Path(self.start_folder) / f"{kind}_{self.rank}.json"
        if path.parent.is_dir() and not path.exists():  # the attempt that has taken over removes the folder
            write_text(path, json.dumps({"message": message, "node": node_name(), "time": time.time()}))

    def note_error(self, message: str, hopeless: bool = False) -> None:
        """Keep what went wrong, and whether it would be the same again."""
        self.note(ERROR, message)
        if hopeless:
            self.note(HOPELESS, message)


@dataclass(frozen=True)
class JobSpec:
    """What every start of a job needs to know; kept in the job's folder."""

    name: str
    function: str
    arguments: dict[str, Any]
    num_nodes: int = 1
    ranks_per_node: int = 1
    uses_gpus: bool = True
    """Whether each rank needs a GPU where there are any."""
    cpus_per_rank: int = 0
    """0: not given."""
    spare_nodes: int = 0
    """Nodes without ranks, to take the place of others that fail."""
    srun_flags: tuple[str, ...] = ()
    """What srun is given beside all that the suite says."""
    restarts_in_place: int = 2
    """After a failure ranks are started anew on the nodes that the job has, so often before it is requeued."""
    time: str = ""
    """Longest duration of one submission; empty: the profile's, as for the partition."""
    partition: str = ""
    reads: dict[str, int] | None = None
    """Files that each node must be able to read, with their bytes."""
    max_failures: int = 3
    patience_s: float = 1800.0
    """A scheduler that does not answer is asked again for so long; near the time limit the job's end comes first."""
    rendezvous_timeout_s: float = 300.0
    hang_timeout_s: float = 1800.0
    interconnect_gb_s: float = 0.0
    interconnect_latency_us: float = 0.0
    stage: dict[str, str] | None = None
    """Files to copy to each node first, by the argument that takes the copy's path."""
    stage_folder: str = ""
    """Where they are copied to; $VARIABLES are those of the node."""

    @property
    def num_ranks(self) -> int:
        """Ranks on all nodes."""
        return self.num_nodes * self.ranks_per_node

    def write(self, folder: Path) -> None:
        """Keep it in the job's folder."""
        write_text(folder / JOB_FILE, json.dumps(asdict(self), indent=1))

    @classmethod
    def read(cls, folder: Path) -> JobSpec:
        """The job of a folder."""
        return read_json(folder / JOB_FILE, cls, "start the job anew")


@dataclass(frozen=True)
class Note:
    """A word that a rank left behind."""

    rank: int
    message: str
    node: str
    time: float


def read_notes(start_folder: Path, kind: str) -> list[Note]:
    """The notes of one kind (ERROR, SIGNAL, LEFT) of a start, earliest first."""
    found = []
    for path in start_folder.glob(f"{kind}_*.json"):
        content = read_json(path, dict[str, Any], "remove it")
        found.append(checked({"rank": int(path.stem.split("_")[1])} | content, Note, str(path)))
    return sorted(found, key=lambda note: note.time)


def resolve(function: str) -> JobFunction:
    """The function of a dotted name."""
    module, _, name = function.rpartition(".")
    found: JobFunction = getattr(importlib.import_module(module), name)
    return found


def node_name() -> str:
    """This machine, as SLURM calls it if it does."""
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


def run(task: Task, function: str, arguments: dict[str, Any], on_stop: Callable[[], None] = lambda: None) -> bool:
    """Run one rank in a process of its own; whether the job is finished. `on_stop`: called at the first stop signal.

    After a stop signal the rank leaves well whatever happens to it: it may fail because others have left already.
    A rank whose attempt has been superseded leaves with its next question, the first of each node, and at the latest
    some seconds later, wherever it hangs.
    """
    claim = Claim(Path(task.claim)) if task.claim else None

    def stopping(name: str) -> None:
        task.note(SIGNAL, name)
        on_stop()

    over = threading.Event()
    if claim:
        threading.Thread(target=_end_when_superseded, args=(claim, over), name="superseded", daemon=True).start()
    with StopFlag(stopping, claim, 0.0 if task.local_rank == 0 else LOOK_EVERY_S) as stop:
        try:
            finished = resolve(function)(task, stop, **arguments) is not False
        except (Exception, KeyboardInterrupt, SystemExit) as error:
            if stop.signal_name:
                log.info("left after %s: %r", stop.signal_name, error)
                return False
            if not isinstance(error, SystemExit):
                task.note_error(f"{type(error).__name__}: {error}")
            raise
        finally:
            over.set()
            task.note(LEFT, stop.signal_name)
    if finished and task.rank == 0:
        if claim:
            claim.require()
        write_text(Path(task.start_folder) / FINISHED_FILE, "")
    return finished


def _end_when_superseded(claim: Claim, over: threading.Event) -> None:
    """Body of a thread that ends the process some seconds after another attempt has taken over, if it is still there.

    It may hang in a GPU's queue where ranks are waited for that have left.
    """
    while claim.holds():
        if over.wait(LOOK_EVERY_S):
            return
    if not over.wait(SUPERSEDED_GRACE_S):
        complain("another attempt has taken over; this rank did not leave by itself")
        sys.stderr.flush()
        os._exit(SUPERSEDED_EXIT_CODE)


def main(job_folder: Path, start_folder: Path) -> int:
    """Body of a rank that srun has started; returns the exit code."""
    wait_asleep()
    environment = os.environ
    spec = JobSpec.read(job_folder)
    hosts = parse_json(environment[HOSTS_VARIABLE], list[str], HOSTS_VARIABLE)
    copies = {name: str(stage(Path(source), Path(spec.stage_folder))) for name, source in (spec.stage or {}).items()}
    task = Task(
        rank=int(environment["SLURM_PROCID"]),
        world_size=spec.num_ranks,
        local_rank=int(environment["SLURM_LOCALID"]),
        local_size=spec.ranks_per_node,
        cpus=spec.cpus_per_rank,
        start_folder=str(start_folder),
        claim=environment.get(CLAIM_VARIABLE, ""),
        hosts=tuple(host for host in hosts for _ in range(spec.ranks_per_node)),
        rendezvous_timeout_s=spec.rendezvous_timeout_s,
        hang_timeout_s=spec.hang_timeout_s,
        interconnect_gb_s=spec.interconnect_gb_s,
        interconnect_latency_us=spec.interconnect_latency_us,
    )

    def on_stop() -> None:
        if task.rank == 0:  # on the batch step's node, where it can be seen at once whether that lives
            orphans.begin_to_look_after(job_folder, start_folder, Claim(Path(task.claim)))

    faulthandler.enable()
    if task.local_rank == 0:
        try:
            fitness.require_fit(start_folder, spec.reads or {}, spec.ranks_per_node if spec.uses_gpus else 0)
        except fitness.Unfit as unfit:
            task.note(UNFIT, str(unfit))
            log.error("%s cannot take part: %s", node_name(), unfit)
            return UNFIT_EXIT_CODE
    run(task, spec.function, spec.arguments | copies, on_stop)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
