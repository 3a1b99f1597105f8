"""A whole SLURM cluster of ordinary daemons in one private folder: start, look after, break on purpose, take down.

munged, MariaDB, slurmdbd, slurmctld and one slurmd per node run as whoever starts them and keep everything in the
folder, which is its owner's alone. The database and munge are reached by sockets in it; the other daemons listen on
loopback, and answer nobody who cannot ask that munge for a credential.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from border.documents import checked, read_json
from border.private_folder import private_folder, require_private
from border.text import suite_command
from slurm.devcluster import processes, settings
from slurm.devcluster.settings import HOST, Ports, node_names

NEEDED = ("munged", "mariadbd", "mariadb-install-db", "slurmdbd", "slurmctld", "slurmd", "sbatch", "srun", "sinfo")
FOLDER_VARIABLE = "DEVCLUSTER_FOLDER"  # chooses another folder
MARK = "DEVCLUSTER_DAEMON_OF"  # in the environment of every daemon and job step, and of nothing else: the folder
SOCKET_VARIABLE = "MARIADB_UNIX_PORT"  # where slurmdbd's client of the database looks for it
NODE_MARK = "DEVCLUSTER_NODE"  # the same of a slurmd and its steps: which node they are
EXEC_TIMEOUT_S = 1.0
START_TIMEOUT_S = 60.0


class DevClusterError(RuntimeError):
    """The cluster cannot be started or has lost a daemon; the message says which, and where its log is."""


def default_folder() -> Path:
    """A folder of this user's own; short, because paths of sockets may not be long."""
    return Path(os.environ.get(FOLDER_VARIABLE, f"{tempfile.gettempdir()}/devcluster-{os.geteuid()}"))


def missing_programs() -> list[str]:
    """What is needed and not installed."""
    return [name for name in NEEDED if shutil.which(name, path=_path()) is None]


@dataclass
class DevCluster:
    """The cluster in a folder: what it is made of, and the process ids of its daemons."""

    folder: Path
    num_nodes: int = 0
    gpus_per_node: int = 0
    ports: Ports = field(default_factory=lambda: Ports(0, 0, ()))
    pids: dict[str, int] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: Path) -> DevCluster:
        """The cluster as its folder tells it; an empty one if there is none; DevClusterError if it is not one's own."""
        if not os.path.lexists(folder):
            return cls(folder)
        with _named_folder():
            require_private(folder)
        try:
            cure = "end its daemons, and remove the folder"
            content = read_json(folder / "devcluster.json", dict[str, Any], cure)
            found: DevCluster = checked(content | {"folder": folder}, cls, f"{folder}/devcluster.json")
        except FileNotFoundError:
            return cls(folder)
        except ValueError as error:
            raise DevClusterError(str(error)) from error
        return found

    @property
    def nodes(self) -> list[str]:
        """Names of the nodes."""
        return node_names(self.num_nodes)

    @property
    def environment(self) -> dict[str, str]:
        """What sbatch, squeue and the rest need to find this cluster."""
        return {"SLURM_CONF": str(self.folder / "slurm.conf")}

    def running(self) -> dict[str, bool]:
        """Every daemon, and whether it lives."""
        names = ["munged", "mariadbd", "slurmdbd", "slurmctld", *self.nodes]
        return {name: processes.has(self.pids.get(name, 0), MARK, str(self.folder)) for name in names}

    def up(self, num_nodes: int, gpus_per_node: int) -> None:
        """Start what is not running and return when every node is there; DevClusterError otherwise."""
        _require(num_nodes, gpus_per_node)
        if self.num_nodes and (self.num_nodes, self.gpus_per_node) != (num_nodes, gpus_per_node):
            if any(self.running().values()):
                raise DevClusterError(
                    f"{self.folder} already runs a cluster of {self.num_nodes} nodes with {self.gpus_per_node} GPUs; "
                    f"take it down first:  {suite_command('slurm/devcluster/down.py', '--folder', self.folder)}"
                )
            self.down()
        if not self.num_nodes:
            self._create(num_nodes, gpus_per_node)
        self._start_services()
        for node in self.nodes:
            self.start_node(node)
        self._await("every node", lambda: self._nodes_ready() == self.num_nodes, "slurmctld")

    def start_node(self, node: str) -> None:
        """Start a node's slurmd if it does not run."""
        self._start(node, ["slurmd", "-D", "-N", node, "-f", str(self.folder / "slurm.conf")])

    def kill_node(self, node: str) -> None:
        """What a power cut does: the slurmd, its job steps and all their processes are gone at once."""
        doomed = [pid for pid in self._processes() if processes.has(pid, NODE_MARK, node)]
        for pid in processes.with_descendants(doomed):
            processes.kill(pid, signal.SIGKILL)

    def down(self) -> None:
        """End jobs and daemons and remove the folder; nothing of the cluster runs afterwards."""
        if self.running().get("slurmctld"):
            self.call("scancel", "--quiet", "--full", f"--user={settings.RUN_AS}", check=False)
            _wait_until(lambda: not self._jobs_alive(), 5.0)
        for name in ("mariadbd", "munged"):  # these two clean up behind themselves
            if self.running().get(name):
                processes.kill(self.pids[name], signal.SIGTERM)
        for _ in range(50):
            left = processes.with_descendants(self._processes())
            if not left:
                break
            for pid in left:
                processes.kill(pid, signal.SIGKILL)
            time.sleep(0.1)
        shutil.rmtree(self.folder, ignore_errors=True)
        self.num_nodes, self.pids = 0, {}

    def call(self, *command: str, check: bool = True) -> str:
        """Output of one of SLURM's commands on this cluster."""
        environment = os.environ | self.environment | {"PATH": _path()}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
        if check and done.returncode:
            raise DevClusterError(f"{' '.join(command)}: {done.stderr.strip()}")
        return done.stdout

    def _create(self, num_nodes: int, gpus_per_node: int) -> None:
        """The folder with configuration and secrets; nothing runs yet."""
        with _named_folder():
            private_folder(self.folder)
        self.num_nodes, self.gpus_per_node, self.ports = num_nodes, gpus_per_node, _free_ports(num_nodes)
        spools = [f"spool/{node}" for node in self.nodes]
        for name in ("munge", "log", "state", "gpus", "database/files", "database/tmp", *spools):
            (self.folder / name).mkdir(mode=0o700, parents=True, exist_ok=True)
        for number in range(gpus_per_node):
            (self.folder / "gpus" / f"nvidia{number}").touch()
        version = self._version()
        self._write("munge/key", secrets.token_bytes(1024))
        self._write("slurm.conf", settings.slurm_conf(self.folder, self.ports, gpus_per_node, version).encode())
        self._write("gres.conf", settings.gres_conf(self.folder, num_nodes, gpus_per_node).encode())
        self._write("slurmdbd.conf", settings.slurmdbd_conf(self.folder, self.ports).encode())
        self._write("database.sql", settings.database_statements().encode())
        if version >= (23, 11):
            self._write("cgroup.conf", b"CgroupPlugin=disabled\n")
        self._remember()

    def _start_services(self) -> None:
        munge, database = self.folder / "munge", self.folder / "database"
        # A starting mariadbd deletes all temporary tables of its folder, also those of one at work beside it.
        own_temporary_files = f"--tmpdir={database}/tmp"
        command = ["munged", "--foreground", "--force", f"--socket={munge}/socket", f"--key-file={munge}/key"]
        command += [f"--pid-file={munge}/pid", f"--seed-file={munge}/seed", f"--log-file={self.folder}/log/munged.log"]
        self._start("munged", command)
        self._await("munge", lambda: (munge / "socket").exists(), "munged")
        if not (database / "mysql").exists():
            install = ["mariadb-install-db", "--no-defaults", f"--datadir={database}", f"--user={settings.RUN_AS}"]
            install += ["--auth-root-authentication-method=socket", f"--auth-root-socket-user={settings.RUN_AS}"]
            install += ["--skip-test-db", "--skip-name-resolve", own_temporary_files]
            done = subprocess.run(install, capture_output=True, text=True, env=os.environ | {"PATH": _path()})
            if done.returncode:
                raise DevClusterError(f"the accounting database cannot be made: {done.stdout}{done.stderr}")
        command = ["mariadbd", "--no-defaults", f"--datadir={database}", f"--socket={database}/socket"]
        command += ["--skip-networking", f"--secure-file-priv={database}/files", f"--user={settings.RUN_AS}"]
        command += [f"--pid-file={database}/pid", f"--init-file={self.folder}/database.sql", "--skip-name-resolve"]
        command += ["--innodb-buffer-pool-size=64M", "--innodb-flush-log-at-trx-commit=0", own_temporary_files]
        self._start("mariadbd", command)
        self._await("the database", lambda: (database / "socket").exists(), "mariadbd")
        self._start("slurmdbd", ["slurmdbd", "-D"])
        self._await("accounting", lambda: _listens(self.ports.accounting), "slurmdbd")
        self._start("slurmctld", ["slurmctld", "-D", "-f", str(self.folder / "slurm.conf")])
        self._await("the controller", lambda: _listens(self.ports.controller), "slurmctld")

    def _start(self, name: str, command: list[str]) -> None:
        if self.running().get(name):
            return
        variables = {"PATH": _path(), MARK: str(self.folder), NODE_MARK: name}
        variables[SOCKET_VARIABLE] = f"{self.folder}/database/socket"
        with open(self.folder / "log" / f"{name}.out", "ab", opener=_for_the_owner) as log:
            process = subprocess.Popen(
                command,
                env=os.environ | self.environment | variables,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                umask=0o077,
                start_new_session=True,
            )
        self.pids[name] = process.pid
        self._remember()
        # For a moment after exec a process shows no environment yet, and would count as not running.
        _wait_until(lambda: self.running()[name] or process.poll() is not None, EXEC_TIMEOUT_S)

    def _await(self, what: str, ready: Callable[[], bool], daemon: str) -> None:
        if not _wait_until(lambda: ready() or not self.running()[daemon], START_TIMEOUT_S) or not ready():
            how = f"within {START_TIMEOUT_S:.0f} s" if self.running()[daemon] else f"({daemon} ended)"
            raise DevClusterError(f"{what} did not come up {how}; see {self.folder}/log/{daemon}.out")

    def _nodes_ready(self) -> int:
        states = self.call("sinfo", "--noheader", "--Node", "--format=%N %t", "--partition=normal", check=False)
        return sum(state.split()[1] in ("idle", "alloc", "mix", "comp") for state in states.splitlines())

    def _processes(self) -> list[int]:
        return processes.having(MARK, str(self.folder))

    def _jobs_alive(self) -> bool:
        return bool(self.call("squeue", "--noheader", "--states=running,completing", check=False).strip())

    def _version(self) -> tuple[int, int]:
        major, minor = self.call("slurmctld", "-V").split()[-1].split(".")[:2]
        return int(major), int(minor)

    def _write(self, name: str, content: bytes) -> None:
        with open(self.folder / name, "wb", opener=_for_the_owner) as file:
            file.write(content)

    def _remember(self) -> None:
        content = {name: value for name, value in asdict(self).items() if name != "folder"}
        self._write("devcluster.json", json.dumps(content).encode())


@contextmanager
def _named_folder() -> Iterator[None]:
    """Say how another folder is chosen when this one cannot be had."""
    try:
        yield
    except OSError as error:
        raise DevClusterError(f"{error}; remove it, or choose another with --folder or {FOLDER_VARIABLE}") from error


def _require(num_nodes: int, gpus_per_node: int) -> None:
    if num_nodes < 1 or num_nodes > 64:
        raise DevClusterError(f"nodes is {num_nodes}, allowed: 1 to 64")
    if gpus_per_node < 0 or gpus_per_node > 16:
        raise DevClusterError(f"gpus is {gpus_per_node}, allowed: 0 to 16")
    missing = missing_programs()
    if missing:
        raise DevClusterError(
            f"{', '.join(missing)} not installed; on Debian or Ubuntu, as root: make cluster-packages"
        )


def _for_the_owner(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _path() -> str:
    """PATH with the folders of daemons, which are not on everybody's."""
    return os.environ.get("PATH", "") + ":/usr/sbin:/sbin"


def _free_ports(num_nodes: int) -> Ports:
    """Ports that nothing listens on, all different."""
    sockets = [socket.socket() for _ in range(2 + num_nodes)]
    for each in sockets:
        each.bind((HOST, 0))
    numbers = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return Ports(numbers[0], numbers[1], tuple(numbers[2:]))


def _listens(port: int) -> bool:
    try:
        socket.create_connection((HOST, port), timeout=1).close()
    except OSError:
        return False
    return True


def _wait_until(ready: Callable[[], bool], timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while not ready():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True
