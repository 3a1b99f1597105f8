"""Places a job: on this machine, or, with a cluster's profile and submitit, as an sbatch script that SLURM runs.

submitit turns the profile into the script's flags; that it is kept to that has reasons: its pickles, its signal
handler and its one srun line are what loses jobs (slurm/batch.py takes their place).
"""

from __future__ import annotations

import logging
import math
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import submitit

from disk.whole_files import write_text
from slurm import given_place, given_ranks, local, scheduler
from slurm.cluster import Cluster, override
from slurm.task import JobSpec

log = logging.getLogger(__name__)

SCRIPT_FILE = "sbatch.sh"
OUTPUT_FILE = "batch_%j.log"
BATCH = Path(__file__).resolve().with_name("batch.py")  # by its path, so that it runs this tree whatever is installed
LOAD_MODULE = """\
load_module() { module load "$1" || { echo "error: module load $1 failed on $(hostname): see module avail there, and \
modules in clusters.toml"; exit 1; }; }"""
COMMAND = """\
trap : TERM USR1 USR2 HUP  # they reach the process below, too; the shell stays, and looks after it when it is killed
{batch} &
while wait $!; code=$?; kill -0 $! 2> /dev/null; do :; done
[ $code -eq 0 ] || exec {batch} $code"""


class _Script(submitit.SlurmExecutor):
    """submitit's writer of sbatch scripts, usable where there is no SLURM."""

    @classmethod
    def affinity(cls) -> int:
        return 1

    def text(self, command: str) -> str:
        """The whole script."""
        return str(self._make_submission_file_text(command, ""))


def for_cluster(spec: JobSpec, cluster: Cluster) -> JobSpec:
    """The job with what the cluster's profile says of retries, time-outs and cores."""
    return replace(
        spec,
        cpus_per_rank=cluster.cpus_per_gpu if cluster.scheduler == "slurm" else 0,
        srun_flags=cluster.extra_srun_flags,
        max_failures=cluster.max_failures,
        restarts_in_place=cluster.restarts_in_place,
        hang_timeout_s=cluster.hang_timeout_min * 60,
        interconnect_gb_s=cluster.interconnect_gb_s if spec.num_nodes > 1 else cluster.node_interconnect_gb_s,
        interconnect_latency_us=cluster.interconnect_latency_us,
        rendezvous_timeout_s=cluster.rendezvous_timeout_s,
        stage_folder=cluster.node_local_folder,
    )


def run_here(spec: JobSpec, folder: Path, cluster: Cluster) -> bool:
    """Run a job on this machine and wait for it, or take part in it as a given rank; whether it is finished."""
    spec, place = for_cluster(spec, cluster), given_place.place()
    return given_ranks.launch(spec, folder, place) if place else local.launch(spec, folder)


def submit(spec: JobSpec, folder: Path, cluster: Cluster, dependency: str = "") -> str:
    """Hand a job to SLURM; returns its id. `dependency` is sbatch's, such as "afterok:17"."""
    for_cluster(spec, cluster).write(folder)
    script = script_of(folder)
    write_text(script, sbatch_script(spec, folder, cluster, dependency))
    return scheduler.submit(script)


def script_of(folder: Path) -> Path:
    """The file that sbatch is given for the job of a folder; by its path the job is known in the queue."""
    return folder / SCRIPT_FILE


def sbatch_script(spec: JobSpec, folder: Path, cluster: Cluster, dependency: str = "") -> str:
    """The script that SLURM gets."""
    cluster = override(cluster, time=spec.time or None, partition=spec.partition or None)
    executor = _Script(folder=folder)
    executor.update_parameters(**_parameters(spec, folder, cluster, dependency))
    command = COMMAND.format(batch=shlex.join([sys.executable, "-u", str(BATCH), str(folder)]))
    lines = executor.text(command).splitlines()
    omitted = tuple(f"#SBATCH --{flag}" for flag in cluster.omit_flags)
    kept = [line for line in lines if not (line.startswith(omitted) and line.split("=")[0] in omitted)]
    return "\n".join(line for line in kept if not line.startswith("export SUBMITIT_")) + "\n"


def _parameters(spec: JobSpec, folder: Path, cluster: Cluster, dependency: str) -> dict[str, Any]:
    """submitit's names for what the profile and the job say; what is empty is not given."""
    gpus = spec.ranks_per_node if spec.uses_gpus else 0
    kind = f"{cluster.gpu_type}:" if cluster.gpu_type else ""
    lines = [LOAD_MODULE] if cluster.modules else []
    lines += [f"load_module {shlex.quote(module)}" for module in cluster.modules]
    lines += [f"export {name}={shlex.quote(value)}" for name, value in cluster.environment.items()]
    lines += cluster.setup
    more: dict[str, Any] = {
        "requeue": True,
        "output": f"{scheduler.file_name(folder)}/{OUTPUT_FILE}",
        "kill-on-invalid-dep": "yes",  # a job whose chain is dead is removed instead of waiting for ever
        "reservation": cluster.reservation or None,
    }
    for flag in cluster.extra_sbatch_flags:
        name, _, value = flag.removeprefix("--").partition("=")
        more[name] = value or True
    parameters: dict[str, Any] = {
        "job_name": f"{folder.parents[1].name}-{spec.name}",
        "nodes": spec.num_nodes + spec.spare_nodes,
        "ntasks_per_node": spec.ranks_per_node,
        "cpus_per_task": cluster.cpus_per_gpu,
        "mem": f"{math.ceil(cluster.mem_per_gpu_gb * spec.ranks_per_node * 1024)}M" if cluster.mem_per_gpu_gb else None,
        "time": cluster.time_min,
        "signal_delay_s": cluster.signal_lead_s,
        "gpus_per_node": f"{kind}{gpus}" if gpus and cluster.gres_style == "gpus-per-node" else None,
        "gres": f"gpu:{kind}{gpus}" if gpus and cluster.gres_style == "gres" else None,
        "wckey": None,
        "setup": lines or None,
        "stderr_to_stdout": True,
        "use_srun": False,
        "dependency": dependency or None,
        "additional_parameters": {name: value for name, value in more.items() if value is not None},
    }
    flags = ("partition", "account", "qos", "constraint", "exclude")
    parameters |= {f"{flag}": getattr(cluster, flag) or None for flag in flags}
    return {name: value for name, value in parameters.items() if value is not None or name == "wckey"}
