"""What ranks do when everything of their batch step has been killed: one of them takes its place, for the requeue.

SLURM then ends the job as failed, and the ranks get SIGTERM some seconds before they are killed, too. In that time the
job can still be sent back to the queue, with the failure on record, as after any other.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

from slurm import owner, scheduler
from slurm.calls import Patience, SchedulerError
from slurm.owner import Claim
from slurm.scheduler import Verdict

log = logging.getLogger(__name__)

MARK = "after_the_batch_step"
PATIENCE = Patience(20.0)  # SLURM's KillWait is 30 s


def begin_to_look_after(job_folder: Path, start_folder: Path, claim: Claim) -> None:
    """`look_after` in a thread, which the end of the process waits for; called when a stop signal has come."""
    arguments = (job_folder, start_folder, claim)
    threading.Thread(target=look_after, args=arguments, name="orphans").start()


def look_after(job_folder: Path, start_folder: Path, claim: Claim) -> None:
    """Do what the batch step would have done, if it does not live and the scheduler ends the job for that."""
    if not claim.holds() or owner.is_alive(claim):
        return
    job_id, restart = os.environ["SLURM_JOB_ID"], int(os.environ.get("SLURM_RESTART_COUNT", "0"))
    try:
        if scheduler.verdict(job_id, restart, PATIENCE) is not Verdict.BATCH_FAILED:
            return
        (start_folder / MARK).touch(exist_ok=False)
    except (FileExistsError, FileNotFoundError):
        return  # another rank does it, or another attempt has begun
    except SchedulerError as error:
        log.warning("nobody says why this attempt is being ended: %s", error)
        return
    code = 128 + signal.SIGKILL
    subprocess.run([sys.executable, "-u", str(Path(__file__).with_name("batch.py")), str(job_folder), str(code)])
