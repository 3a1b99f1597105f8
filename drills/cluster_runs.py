"""Starting jobs on a devcluster and waiting for what becomes of them; for drills, and for tests on a real SLURM."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.planning.cli import CONFIG_FILE
from slurm import attempts, chain
from slurm.attempts import Attempt
from slurm.chain import Member
from slurm.cluster import load, override
from slurm.devcluster.daemons import DevCluster
from slurm.task import JobSpec

ROOT = Path(__file__).parents[1]


def wait_for(what: str, ready: Callable[[], Any], timeout_s: float) -> Any:
    """The first true answer; AssertionError when none comes in time."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        answer = ready()
        if answer:
            return answer
        time.sleep(0.2)
    raise AssertionError(f"{what}: not within {timeout_s:.0f} s")


@dataclass
class Runs:
    """A cluster, and a folder for run folders."""

    cluster: DevCluster
    folder: Path

    def submit(self, function: str, run: str = "run", **arguments: Any) -> tuple[Path, str]:
        """Submit one job of drills/counting.py; returns its folder and id. Sizes and profile by keyword."""
        sizes = {
            name: arguments.pop(name) for name in ("num_nodes", "ranks_per_node", "spare_nodes") if name in arguments
        }
        profile = override(load("devcluster"), **arguments.pop("profile", {}))
        folder = self.folder / run
        folder.mkdir(exist_ok=True)
        (folder / CONFIG_FILE).write_text("{}")  # what makes it a run folder
        job = chain.job_folder(folder, "job")
        spec = JobSpec("job", f"drills.counting.{function}", {"folder": str(job), **arguments}, **sizes)
        return job, chain.submit(folder, [Member(spec)], profile)[0].job_id

    def command(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run one of the suite's commands on the cluster, from a folder without data of its own."""
        environment = os.environ | {"VICREG_CLUSTER": "devcluster", "COLUMNS": "120"}
        command = [sys.executable, str(ROOT / arguments[0]), *arguments[1:]]
        done = subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=120)
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    def state(self, job_id: str) -> str:
        """What SLURM says of a job."""
        shown = self.cluster.call("scontrol", "show", "job", job_id)
        return shown.split("JobState=")[1].split()[0]

    def await_state(self, job_id: str, states: str, timeout_s: float = 120) -> str:
        """The job's state as soon as it is one of these (blank-separated)."""
        return str(wait_for(f"job {job_id} {states}", lambda: self.state(job_id) in states.split(), timeout_s))

    def await_over(self, job_id: str, timeout_s: float = 120) -> str:
        """The state in which the job ended."""
        over = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "OUT_OF_MEMORY", "NODE_FAIL")
        wait_for(f"the end of job {job_id}", lambda: self.state(job_id) in over, timeout_s)
        return self.state(job_id)

    def await_attempt(self, job: Path, number: int, progress: int, timeout_s: float = 120) -> Attempt:
        """The attempt of this number, when it runs and has itself told that the job is as far as `progress`."""

        def ready() -> Attempt | None:
            past = attempts.read(job)
            heartbeat = attempts.read_heartbeat(job)
            running = [attempt for attempt in past[number:] if attempt.outcome == attempts.RUNNING]
            if not running or heartbeat is None or heartbeat.time < running[0].started:
                return None
            return running[0] if heartbeat.progress >= progress else None

        found: Attempt = wait_for(f"attempt {number} of {job} at step {progress}", ready, timeout_s)
        return found


def outcomes(job: Path) -> list[str]:
    """How the attempts of a job ended."""
    return [attempt.outcome for attempt in attempts.read(job)]


def ranks(job_id: str) -> dict[int, int]:
    """Process ids of a running job's ranks, on this machine."""
    found: dict[int, int] = {}
    for name in os.listdir("/proc"):
        try:
            command = Path(f"/proc/{name}/cmdline").read_bytes() if name.isdigit() else b""
            pairs = Path(f"/proc/{name}/environ").read_bytes().split(b"\0") if b"slurm/task.py" in command else []
        except OSError:
            continue
        variables = dict(pair.decode(errors="replace").split("=", 1) for pair in pairs if b"=" in pair)
        if variables.get("SLURM_JOB_ID") == job_id and "SLURM_PROCID" in variables and b"srun" not in command:
            found[int(variables["SLURM_PROCID"])] = int(name)
    return found


def metrics(run: Path) -> list[dict[str, Any]]:
    """The metrics of a run, as they stand in the file."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
