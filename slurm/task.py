"""One rank of a job: where it stands, what it runs, how it says that it failed, hangs or was asked to stop.

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
from disk.whole_files import write_text
from slurm.owner import Claim
from slurm.requeue import StopFlag
from slurm.stage_data import stage

log = logging.getLogger(__name__)

JOB_FILE = "job.json"
FINISHED_FILE = "finished"
ERROR, SIGNAL, LEFT = "error", "signal", "left"  # what a rank notes: the first error, the first stop signal, its end
HOPELESS = "hopeless"  # and an error that would be the same again
HOSTS_VARIABLE = "VICREG_HOSTS"  # the nodes of a job, as JSON
CLAIM_VARIABLE = "VICREG_CLAIM"  # the file that lets an attempt write
HUNG_EXIT_CODE = 70  # sysexits.h: internal software error
DUMP_LEAD_S = 10.0  # from the dump of the stacks to the end of the process: the other ranks dump theirs

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
    """The file that lets this attempt write, for rank 0: it goes when another attempt takes over (slurm/owner.py)."""
    has_terminal: bool = False
    """Whether somebody watches this rank; otherwise its output goes to its log."""

    @property
    def rendezvous(self) -> Path:
        """The file through which the ranks find each other."""
        return Path(self.start_folder) / "rendezvous.json"

    def note(self, kind: str, message: str) -> None:
        """Keep a word where whoever started the ranks looks for it; the first of its kind stays, it is the cause."""
        path = Path(self.start_folder) / f"{kind}_{self.rank}.json"
        if not path.exists():
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


def run(task: Task, function: str, arguments: dict[str, Any]) -> bool:
    """Run one rank in a process of its own; whether the job is finished.

    After a stop signal the rank leaves well whatever happens to it: it may fail because others have left already.
    """
    claim = Claim(Path(task.claim)) if task.claim and task.rank == 0 else None  # rank 0 is the one that writes
    with StopFlag(lambda name: task.note(SIGNAL, name), claim) as stop:
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
            task.note(LEFT, stop.signal_name)
    if finished and task.rank == 0:
        write_text(Path(task.start_folder) / FINISHED_FILE, "")
    return finished


class Watchdog:
    """Ends this process when it has not been heard of for too long, after a dump of all its threads' stacks.

    Every rank has one, and they were last heard of at about the same time; so each dumps its stacks, and only some
    seconds later the first one leaves, with an exit code that ends the job for another try.
    """

    def __init__(self, task: Task) -> None:
        self._task, self._timeout_s = task, task.hang_timeout_s
        self._heard = time.monotonic()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()

    def heard(self) -> None:
        """The process is alive and gets on."""
        self._heard = time.monotonic()

    def close(self) -> None:
        """Stop watching."""
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(min(1.0, self._timeout_s / 4)):
            if time.monotonic() - self._heard > self._timeout_s:
                break
        else:
            return
        message = f"no step for {self._timeout_s:.0f} s; the stacks of all threads stand in the log of each rank"
        complain(f"rank {self._task.rank}: {message}")
        faulthandler.dump_traceback(sys.stderr, all_threads=True)
        self._task.note_error(message)
        self._over.wait(DUMP_LEAD_S)
        sys.stderr.flush()
        os._exit(HUNG_EXIT_CODE)


def main(job_folder: Path, start_folder: Path) -> int:
    """Body of a rank that srun has started; returns the exit code."""
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
    faulthandler.enable()
    run(task, spec.function, spec.arguments | copies)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
