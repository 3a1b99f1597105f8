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
import time
from pathlib import Path

from slurm import owner, scheduler
from slurm.calls import Patience, SchedulerError
from slurm.owner import Claim
from slurm.scheduler import Verdict

log = logging.getLogger(__name__)

LOOK_EVERY_S = 2.0
MARK = "after_the_batch_step"
PATIENCE = Patience(20.0)  # SLURM's KillWait is 30 s


def begin_to_look_after(job_folder: Path, start_folder: Path, claim: Claim) -> None:
    """`look_after` in a thread, which the end of the process waits for; called when a stop signal has come."""
    arguments = (job_folder, start_folder, claim, (Verdict.BATCH_FAILED,))
    threading.Thread(target=look_after, args=arguments, name="orphans").start()


def watch(job_folder: Path, start_folder: Path, claim: Claim) -> None:
    """Begin to look whether the batch step lives, for the first rank of the last node of a job with spare nodes.

    Such a job outlives its first node: when SLURM notices the loss it kills the ranks, and lets the job run on without
    a batch step to its time limit. This is quicker than SLURM.
    """

    def body() -> None:
        silent = 0
        while silent < 2:  # the shell of a batch step that was killed alone has done it by then
            time.sleep(LOOK_EVERY_S)
            silent = 0 if owner.is_alive(claim) else silent + 1
        look_after(job_folder, start_folder, claim, (Verdict.BATCH_FAILED, Verdict.RUNNING))

    threading.Thread(target=body, name="orphans", daemon=True).start()


def look_after(job_folder: Path, start_folder: Path, claim: Claim, given: tuple[Verdict, ...]) -> None:
    """Do what the batch step would have done, if it does not live and the scheduler has decided nothing else.

    `given`: verdicts after which there is something to do.
    """
    if not claim.holds() or owner.is_alive(claim):
        return
    job_id, restart = os.environ["SLURM_JOB_ID"], int(os.environ.get("SLURM_RESTART_COUNT", "0"))
    try:
        if scheduler.verdict(job_id, restart, PATIENCE) not in given:
            return
        (start_folder / MARK).touch(exist_ok=False)
    except (FileExistsError, FileNotFoundError):
        return  # another rank does it, or another attempt has begun
    except SchedulerError as error:
        log.warning("nobody says why this attempt is being ended: %s", error)
        return
    code = 128 + signal.SIGKILL
    subprocess.run([sys.executable, "-u", "-m", "slurm.batch", str(job_folder), str(code)])
