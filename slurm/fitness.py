"""What a node must be able to do before it takes part in an attempt: seconds here, or minutes and a failure later.

The first rank of each node looks, at every start. That the nodes reach each other and agree on the time is found out
when they meet (vicreg/ranks/meeting.py).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

MIN_FREE_GB = 1.0  # of the run folder's disk: less than one checkpoint of the published run takes
MIN_FREE_SHARE = 0.5  # of a GPU's memory: below, a process that was left over holds it
SMI_TIMEOUT_S = 60.0
QUERY = ("nvidia-smi", "--query-gpu=memory.free,memory.total", "--format=csv,noheader,nounits")
GPU_VARIABLES = ("SLURM_STEP_GPUS", "SLURM_JOB_GPUS", "CUDA_VISIBLE_DEVICES")
ENDS_BYTES = 4096


class Unfit(RuntimeError):
    """This node cannot take part; the message says why."""


def require_fit(folder: Path, reads: Mapping[str, int], num_gpus: int) -> None:
    """Unfit unless the folder can be written, the files are there in full, and the GPUs answer and are free.

    `reads`: bytes of each file that the job reads, as they were where it was submitted. `num_gpus`: those that SLURM
    gave this job on each node, 0 for none.
    """
    _require_room(folder)
    for name, size in reads.items():
        _require_readable(Path(name), size)
    if num_gpus:
        _require_gpus(num_gpus)


def _require_room(folder: Path) -> None:
    for place in (folder, Path(tempfile.gettempdir())):
        try:
            with tempfile.TemporaryFile(dir=place) as file:
                file.write(bytes(ENDS_BYTES))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise Unfit(f"{place} cannot be written: {error.strerror}") from error
    free_gb = shutil.disk_usage(folder).free / 1e9
    if free_gb < MIN_FREE_GB:
        raise Unfit(f"{folder} has {free_gb:.2f} GB free, needed: {MIN_FREE_GB:.0f}; make room there")


def _require_readable(path: Path, size: int) -> None:
    try:
        with path.open("rb") as file:
            found = os.fstat(file.fileno()).st_size
            for place in (0, max(0, found - ENDS_BYTES)):
                os.pread(file.fileno(), ENDS_BYTES, place)
    except OSError as error:
        raise Unfit(f"{path} cannot be read: {error.strerror}") from error
    if found != size:
        raise Unfit(f"{path} has {found:,} bytes, where the job was submitted it had {size:,}")


def _require_gpus(number: int) -> None:
    """Asked of the driver's own program, which a GPU that is lost lets hang or fail; without it nothing is known."""
    given = next((os.environ[name] for name in GPU_VARIABLES if os.environ.get(name)), "")
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    if not given or "MIG" in visible or shutil.which(QUERY[0]) is None:  # parts of a GPU have no row of their own
        return
    command = [*QUERY, f"--id={visible}"] if visible else list(QUERY)
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SMI_TIMEOUT_S)
    except subprocess.TimeoutExpired as error:
        raise Unfit(f"its GPUs do not answer within {SMI_TIMEOUT_S:.0f} s (nvidia-smi)") from error
    rows = [line.split(",") for line in done.stdout.splitlines() if line.count(",") == 1]
    if done.returncode or len(rows) < number:
        said = (done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}").splitlines()[-1]
        raise Unfit(f"{len(rows)} of {number} GPUs answer (nvidia-smi: {said})")
    for place, (free, total) in enumerate(rows):
        if float(free) < MIN_FREE_SHARE * float(total):
            raise Unfit(f"GPU {place} has {float(free):,.0f} of {float(total):,.0f} MB free: another process holds it")
