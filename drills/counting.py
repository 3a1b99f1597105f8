"""Job functions for drills and tests on a cluster: they count to a number, and go wrong on demand."""

from __future__ import annotations

import time
from pathlib import Path

from slurm import chain
from slurm.attempts import Pulse
from slurm.chain import Member
from slurm.cluster import load
from slurm.hang_watchdog import Watchdog
from slurm.requeue import StopFlag
from slurm.task import JobSpec, Task, node_name

STEP_S = 0.05


def count(task: Task, stop: StopFlag, folder: str, steps: int) -> bool:
    """Count up to `steps`, from where the attempt before has stopped; only rank 0 keeps the count."""
    kept = Path(folder) / f"count_{task.rank}"
    done = int(kept.read_text()) if kept.exists() else 0
    pulse = Pulse(Path(folder), steps)
    while done < steps:
        time.sleep(STEP_S)
        done += 1
        if task.rank == 0:
            pulse.beat(done, at_once=stop())
        if stop():
            kept.write_text(str(done))
            return False
    kept.write_text(str(done))
    return True


def count_on(task: Task, stop: StopFlag, folder: str, steps: int) -> bool:
    """Count, with a line of rank 0 for each step that says who counted, as long as this attempt may."""
    pulse = Pulse(Path(folder), steps)
    for step in range(steps):
        time.sleep(STEP_S)
        if stop():
            return False
        if task.rank == 0:
            with (Path(folder) / "counted").open("a") as file:
                file.write(f"{Path(task.start_folder).name} {step}\n")
            pulse.beat(step)
    return True


def fail_on_node(task: Task, stop: StopFlag, folder: str, node: str) -> bool:
    """Fail wherever `node` takes part."""
    time.sleep(0.5)
    if node_name() == node:
        raise RuntimeError(f"{node} is broken")
    return True


def eat_memory(task: Task, stop: StopFlag, folder: str, gigabytes: float) -> bool:
    """Take more memory than the job may have."""
    eaten = [bytearray(50 * 2**20) for _ in range(int(gigabytes * 20))] if task.rank == 1 else []
    time.sleep(60)
    return not eaten


def hang(task: Task, stop: StopFlag, folder: str) -> bool:
    """Do nothing for ever; go well in the second attempt."""
    marker = Path(folder) / f"hung_{task.rank}"
    if marker.exists():
        return True
    marker.touch()
    watchdog = Watchdog(task)
    watchdog.heard()
    time.sleep(600)
    watchdog.close()
    return False


def submit_another(task: Task, stop: StopFlag, folder: str, run_of_other: str) -> bool:
    """Submit a job from inside this one."""
    job = chain.job_folder(Path(run_of_other), "inner")
    spec = JobSpec("inner", "drills.counting.count", {"folder": str(job), "steps": 2}, 1, 2)
    chain.submit(Path(run_of_other), [Member(spec)], load("devcluster"))
    return True
