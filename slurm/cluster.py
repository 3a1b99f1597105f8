"""Profiles of clusters: what a site calls its partitions, how its nodes are made, which flags it refuses.

They stand apart from the code, in a TOML file that users edit (`clusters.toml` at the repository's root says what each
key does); here they are found, read and checked. Nothing here talks to a scheduler.
"""

from __future__ import annotations

import dataclasses
import math
import os
import re
import shutil
import socket
import sys
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from border.documents import parse_toml
from border.text import IS_CHECKOUT, did_you_mean
from slurm import given_place
from slurm.calls import FLAGS_AS_VARIABLES as FLAGS
from slurm.job_size import SAFE_FLAG, TIME_FORMS, JobSize, is_safe_flag, read_size, seconds

FILE_VARIABLE = "VICREG_CLUSTERS"  # names the file with the profiles
NAME_VARIABLE = "VICREG_CLUSTER"  # names the profile where the command line does not
FILE_NAME = "clusters.toml"
FILE_BESIDE_PACKAGE = (Path(__file__).parents[1] if IS_CHECKOUT else Path(sys.prefix) / "share" / "vicreg") / FILE_NAME
BUILT_IN: dict[str, dict[str, Any]] = {"slurm": {}, "local": {"scheduler": "local"}}  # exist without any file
FROM_ENVIRONMENT = ("partition", "account", "qos", "constraint", "reservation")  # $SBATCH_PARTITION and so on
MAX_SIGNAL_LEAD_S = 65535  # sbatch --signal
OWN_FLAGS = {
    *("account", "constraint", "cpus-per-task", "dependency", "distribution", "error", "exclude", "export", "gpus"),
    *("gpus-per-node", "gres", "job-name", "kill-on-bad-exit", "kill-on-invalid-dep", "mem", "no-requeue", "nodelist"),
    *("nodes", "ntasks", "ntasks-per-node", "open-mode", "output", "parsable", "partition", "qos", "requeue"),
    *("reservation", "signal", "time", "wait", "wrap", "array"),
}


@dataclass(frozen=True)
class Cluster:
    """What is special about one cluster; empty texts and zeros stand for flags that are not given."""

    name: str
    """Its table in the file."""
    scheduler: Literal["slurm", "local"] = "slurm"
    """slurm: jobs are submitted. local: they run on this machine."""
    partition: str = ""
    account: str = ""
    qos: str = ""
    constraint: str = ""
    exclude: str = ""
    reservation: str = ""
    cpu_partition: str = ""
    """Partition of jobs without GPUs, such as the report's; empty: the same."""
    gpus_per_node: int = 8
    """Default of --gpus."""
    cpus_per_gpu: int = 10
    """CPU cores asked for with each GPU."""
    mem_per_gpu_gb: float = 0
    """Memory asked for with each GPU; 0 leaves it to the scheduler's default."""
    gpu_memory_gb: float = 0
    """Memory of one GPU, for the plan that --dry-run prints; 0 for unknown."""
    gpu_tflops: float = 0
    """What one GPU keeps up in this suite's steps, for the durations that --dry-run predicts; 0 for usual numbers, as
    for the other speeds. `benchmarks/step.py` measures all of them."""
    interconnect_gb_s: float = 0
    """What one GPU can send to other nodes, in GB/s."""
    node_interconnect_gb_s: float = 0
    """What one GPU can send to others of its node, in GB/s."""
    interconnect_latency_us: float = 0
    """Duration of a collective of few bytes, for each doubling of the ranks."""
    node_memory_gb: float = 0
    """Memory of one node, for the plan that --dry-run prints; 0 for unknown."""
    time: str = "48:00:00"
    """Longest duration of one submission, in one of SLURM's forms; a run that needs longer is requeued."""
    signal_lead_s: int = 120
    """SIGUSR2 comes so long before the end of the time."""
    gres_style: Literal["gpus-per-node", "gres", "none"] = "gpus-per-node"
    """The flag that asks for GPUs: --gpus-per-node=8, --gres=gpu:8, or none."""
    gpu_type: str = ""
    """Kind of GPU, such as a100 for gpu:a100:8."""
    omit_flags: tuple[str, ...] = ()
    """sbatch flags that are never given, without dashes: wckey, mem."""
    extra_sbatch_flags: tuple[str, ...] = ()
    """More flags of sbatch, --name or --name=value: --exclusive, --comment=..., --mail-type=FAIL, --licenses=..."""
    extra_srun_flags: tuple[str, ...] = ()
    """More flags of srun: --mpi=pmix, --network=..."""
    modules: tuple[str, ...] = ()
    """What `module load` loads before the job."""
    setup: tuple[str, ...] = ()
    """Shell lines before the job."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables exported to every rank."""
    shared_folder: str = ""
    """Folder that all nodes see; runs go to its runs/. Empty for the current folder."""
    node_local_folder: str = ""
    """Target of --stage-data; $VARIABLES in it are expanded on the node."""
    data: Mapping[str, str] = field(default_factory=dict)
    """Folder with train.beton and val.beton of each data set, by its name."""
    jobs: Mapping[str, JobSize] = field(default_factory=dict)
    """What single jobs (knn, linear, report) ask for, by their names, instead of what is estimated."""
    max_failures: int = 3
    """Attempts that may fail in a row without progress."""
    restarts_in_place: int = 2
    """So often ranks are started anew on the nodes that a job has before a failure sends it back to the queue."""
    hang_timeout_min: float = 30
    """A job without a step for so long is ended and tried again."""
    rendezvous_timeout_s: float = 300
    """Time that the ranks have to find each other."""

    @property
    def time_min(self) -> int:
        """`time` in minutes, rounded up as SLURM does."""
        return math.ceil(seconds(self.time) / 60)

    def __post_init__(self) -> None:
        for key in ("scheduler", "gres_style"):
            choices = typing.get_args(typing.get_type_hints(Cluster)[key])
            _require(getattr(self, key) in choices, key, getattr(self, key), " or ".join(choices))
        for key in ("partition", "cpu_partition", "account", "qos", "constraint", "exclude", "reservation", "gpu_type"):
            _require(is_safe_flag(getattr(self, key)), key, getattr(self, key), SAFE_FLAG)
        for key in ("omit_flags", "modules"):
            for entry in getattr(self, key):
                _require(entry != "" and is_safe_flag(entry), f"an entry of {key}", entry, f"names, {SAFE_FLAG}")
        for key in ("extra_sbatch_flags", "extra_srun_flags"):
            for flag in getattr(self, key):
                name = flag.partition("=")[0]
                valid = re.fullmatch("--[a-z][a-z-]*", name) is not None and flag.isprintable()
                _require(valid, f"an entry of {key}", flag, "--name or --name=value, printable")
                cure = "flags that the suite does not give itself; for those of the profile there are keys of their own"
                _require(name.removeprefix("--") not in OWN_FLAGS, f"an entry of {key}", flag, cure)
        for key in ("gpus_per_node", "cpus_per_gpu", "max_failures"):
            _require(getattr(self, key) >= 1, key, getattr(self, key), "1 or more")
        _require(
            self.restarts_in_place >= 0, "restarts_in_place", self.restarts_in_place, "0 (at once to the queue) or more"
        )
        speeds = ("gpu_tflops", "interconnect_gb_s", "node_interconnect_gb_s", "interconnect_latency_us")
        for key in ("mem_per_gpu_gb", "gpu_memory_gb", "node_memory_gb", *speeds):
            _require(0 <= getattr(self, key) < math.inf, key, getattr(self, key), "0 (flag not given, unknown) or more")
        for key in ("hang_timeout_min", "rendezvous_timeout_s"):
            _require(0 < getattr(self, key) < math.inf, key, getattr(self, key), "above 0 and finite")
        meant = " (two numbers would be minutes and seconds to SLURM: write all three)" if ":" in self.time else ""
        _require(seconds(self.time) > 0, "time", self.time, f"more than 0 as {TIME_FORMS}{meant}")
        longest_s = min(self.time_min * 60 - 1, MAX_SIGNAL_LEAD_S)
        allowed = f"1 to {longest_s} seconds, less than the time {self.time!r}; shorten it or ask for more time"
        _require(1 <= self.signal_lead_s <= longest_s, "signal_lead_s", self.signal_lead_s, allowed)
        for name, text in self.environment.items():
            valid = re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", name) is not None
            _require(valid, "a name in environment", name, "letters, digits and _, not a digit first")
            _require("\0" not in text, f"environment.{name}", text, "text without NUL characters")


def load(name: str, path: Path | None = None) -> Cluster:
    """The profile called `name`; "" for that of $VICREG_CLUSTER, else "slurm" where there is sbatch and the ranks
    are not given, else "local".

    Looked for in `path`, else in the file that $VICREG_CLUSTERS names, else in the first there is of ./clusters.toml,
    ~/.config/vicreg/clusters.toml and the one beside the package (of a wheel: in share/vicreg of the environment).
    ValueError for whatever is wrong with it.
    """
    submits = shutil.which("sbatch") and given_place.place() is None
    name = name or os.environ.get(NAME_VARIABLE) or ("slurm" if submits else "local")
    file = path or _find_file()
    tables = _read(file) if file else {}
    where = str(file) if file else f"(no {FILE_NAME})"
    if name not in tables and name not in BUILT_IN:
        known = [*BUILT_IN, *(table for table in tables if table not in BUILT_IN)]
        allowed = f"{', '.join(known)}{did_you_mean(name, known)}, or add a table [{name}] to {file or FILE_NAME}"
        raise ValueError(f"{where}: cluster is {name!r}, allowed: {allowed}")
    try:
        cluster = Cluster(name, **_checked_types(BUILT_IN.get(name, {}) | tables.get(name, {})))
    except ValueError as error:
        raise ValueError(f"{where}: [{name}]: {error}") from None
    return _completed(cluster) if cluster.scheduler == "slurm" else cluster


def _completed(cluster: Cluster) -> Cluster:
    """The profile with what it leaves open from sbatch's own variables; all others of them are not used (calls.py)."""
    found = {key: os.environ.get(f"{FLAGS}{key.upper()}") for key in FROM_ENVIRONMENT if not getattr(cluster, key)}
    try:
        return dataclasses.replace(cluster, **_checked_types({key: text for key, text in found.items() if text}))
    except ValueError as error:
        raise ValueError(f"in the environment, SBATCH_ in front and in capitals: {error}") from None


def unused_variables(cluster: Cluster) -> list[str]:
    """What of sbatch's variables in the environment, NAME=VALUE, is not in the profile and so will not hold."""
    used = {f"{FLAGS}{key.upper()}": getattr(cluster, key) for key in FROM_ENVIRONMENT}
    found = {name: text for name, text in sorted(os.environ.items()) if name.startswith(FLAGS)}
    return [f"{name}={text}" for name, text in found.items() if used.get(name) != text]


def override(cluster: Cluster, **values: str | int | float | None) -> Cluster:
    """A copy with the values replaced that are not None, checked as those in the file are."""
    given = {key: value for key, value in values.items() if value is not None}
    try:
        return dataclasses.replace(cluster, **_checked_types(given))
    except ValueError as error:
        raise ValueError(f"cluster {cluster.name}, changed on the command line: {error}") from None


def expand_path(name: str, path: str) -> str:
    """The path with ~ and $VARIABLES expanded; ValueError when one of them is not set or empty here."""
    for variable in re.findall(r"\$(?:\{([^}]*)\}|(\w+))", path, flags=re.ASCII):
        missing = "".join(variable)
        cure = f"export it before, or write the folder out (this is {socket.gethostname()})"
        _require(bool(os.environ.get(missing)), name, path, f"variables that are set, and ${missing} is not; {cure}")
    return os.path.expanduser(os.path.expandvars(path))


def _find_file() -> Path | None:
    chosen = os.environ.get(FILE_VARIABLE)
    if chosen:
        return Path(chosen)
    places = [Path(FILE_NAME), Path(os.path.expanduser("~/.config/vicreg")) / FILE_NAME, FILE_BESIDE_PACKAGE]
    return next((place for place in places if place.is_file()), None)


def _read(path: Path) -> dict[str, dict[str, Any]]:
    """The tables of a file, one per cluster."""
    try:
        tables = parse_toml(path.read_bytes())
    except FileNotFoundError:
        cure = f"correct the name, or unset {FILE_VARIABLE} if it stands there"
        raise ValueError(f"{path}: no such file with profiles of clusters; {cure}") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}; text needs quotes, and each key its own line") from None
    for key, value in tables.items():
        cure = f'a table per cluster; put it under a line such as ["{key}"] or [slurm]'
        _require(isinstance(value, dict), f"{path}: {key}", value, cure)
    return tables


def _checked_types(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values as the fields want them; ValueError for unknown keys and wrong types."""
    hints = typing.get_type_hints(Cluster)
    del hints["name"]
    for key in values:
        if key not in hints:
            raise ValueError(f"{key!r} is no known key{did_you_mean(key, hints)}, allowed: {', '.join(hints)}")
    sizes = values.get("jobs", {})
    _require(isinstance(sizes, Mapping), "jobs", sizes, "a table for each job, such as [PROFILE.jobs.knn]")
    checked = {key: _checked_type(key, value, hints[key]) for key, value in values.items() if key != "jobs"}
    checked |= {"jobs": {name: read_size(f"jobs.{name}", size) for name, size in sizes.items()}} if sizes else {}
    if "shared_folder" in checked:
        checked["shared_folder"] = expand_path("shared_folder", checked["shared_folder"])
    if "data" in checked:
        checked["data"] = {name: expand_path(f"data.{name}", folder) for name, folder in checked["data"].items()}
    return checked


def _checked_type(key: str, value: Any, hint: Any) -> Any:
    if hint is float:
        is_number = isinstance(value, float) or _is_whole(value)
        _require(is_number, key, value, "a number, without quotes")
        return float(value)
    if hint is int:
        _require(_is_whole(value), key, value, "a whole number, without quotes")
        return value
    origin = typing.get_origin(hint)
    if origin is tuple:
        _require(isinstance(value, list | tuple), key, value, 'a list of texts, such as ["one", "another"]')
        return tuple(_checked_type(f"an entry of {key}", entry, str) for entry in value)
    if origin is Mapping:
        _require(isinstance(value, Mapping), key, value, 'a table of texts, such as {NAME = "text"}')
        return {name: _checked_type(f"{key}.{name}", entry, str) for name, entry in value.items()}
    _require(isinstance(value, str), key, value, "text in quotes")
    return value


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 10**15


def _require(condition: bool, name: str, value: object, allowed: str) -> None:
    """As `vicreg.config.require`, which must not be imported from here."""
    if not condition:
        raise ValueError(f"{name} is {value!r}, allowed: {allowed}")
