"""The batch step of a job: starts the ranks with srun, waits, and decides with the scheduler what happens next.

After a failure the ranks are started anew on the nodes that the job has, which takes seconds where the queue takes its
time; only then the job is sent back to the queue.

submitit's own handler runs on rank 0 only, leaves the others running, counts every preemption of a short job as a
timeout, and is gone when rank 0 is. This process is none of the ranks: it sees every one of them end, knows why, and is
the only one that asks for a requeue. As a program: python slurm/batch.py JOB_FOLDER, and once more with its exit code
when it has ended badly, for what it could not do itself (slurm/executor.py has the shell that does so).
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

if __name__ == "__main__":  # the tree that this file stands in, whatever is installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from border.terminal import log_to
from slurm import attempts, owner, scheduler, srun
from slurm.attempts import CANCELLED, FAILED, FINISHED, RUNNING, STOPPED, Attempt
from slurm.calls import Patience, SchedulerError
from slurm.owner import Claim
from slurm.requeue import Decision, decide, is_repeated
from slurm.scheduler import Verdict
from slurm.srun import Srun
from slurm.task import CLAIM_VARIABLE, FINISHED_FILE, HOPELESS, HOSTS_VARIABLE, LEFT, SIGNAL, JobSpec, read_notes

log = logging.getLogger(__name__)

POLL_S = 0.2
LOOK_S = 1.0  # so often it is looked whether another attempt has taken over
SUPERSEDED = "another attempt has taken over: the scheduler took this one's nodes for dead"


class Batch:
    """One attempt of a job, from the side of its batch step."""

    def __init__(self, folder: Path, code: int = 0) -> None:
        """`code`: how the process ended that this one follows; the claim to the folder is still that attempt's."""
        self.folder = folder
        self.spec = JobSpec.read(folder)
        self.job_id = os.environ["SLURM_JOB_ID"]
        self.restart = int(os.environ.get("SLURM_RESTART_COUNT", "0"))
        self.nodes = scheduler.host_names(os.environ["SLURM_JOB_NODELIST"])
        self.dead: set[str] = set()  # nodes that the scheduler has lost
        self.unfit: set[str] = set()
        self.attempt = self._attempt(0)
        self.claim = Claim(owner.newest(folder)) if code else self._claim()
        self.patience = Patience(self.spec.patience_s, self._note_trouble)
        self.has_waited = self.terminating = False
        signal.signal(signal.SIGTERM, self._note_termination)
        for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP):  # these are for the ranks
            signal.signal(number, lambda *_: None)

    def _note_termination(self, *_: object) -> None:
        self.terminating = True

    def _note_trouble(self, said: str) -> None:
        """The scheduler does not answer: whoever looks at the job is told that it waits, and why."""
        log.warning("%s", said)
        self.has_waited = True
        reason = f"{self.attempt.reason}; " if self.attempt.reason else ""
        attempts.begin(self.folder, replace(self.attempt, reason=f"{reason}{attempts.WAITS}: {said}"))

    @property
    def past(self) -> list[Attempt]:
        """The attempts of this submission: what is typed anew has all its tries again, and all nodes."""
        return attempts.of_submission(attempts.read(self.folder), self.job_id)

    def _attempt(self, start: int) -> Attempt:
        nodes = self._fit_nodes()[: self.spec.num_nodes]
        return Attempt(self.job_id, self.restart, nodes, time.time(), start=start)

    def _fit_nodes(self) -> tuple[str, ...]:
        return tuple(node for node in self.nodes if node not in self.dead | self.unfit)

    def _claim(self) -> Claim:
        again = f", start {self.attempt.start + 1}" if self.attempt.start else ""
        return owner.claim(self.folder, f"job {self.job_id}, attempt {self.restart + 1}{again}", take_over=True)

    @property
    def start_folder(self) -> Path:
        """Where the ranks of this start meet, and leave their notes."""
        return self.folder / f"start_{self.job_id}_{self.restart}_{self.attempt.start}"

    def run(self) -> int:
        """The ranks, started anew where that is the answer to a failure; returns the exit code of the job."""
        attempts.close_forgotten(self.folder, self._progress())
        if shutil.which("scontrol") is None:
            log.warning("scontrol is not on this node's PATH: the job cannot send itself back to the queue")
        while (code := self._start()) is None:
            self.attempt = self._attempt(self.attempt.start + 1)
            self.claim = self._claim()  # what is left of the start before on a node that was lost writes no more
        return code

    def _start(self) -> int | None:
        """One start of the ranks; returns the exit code of the job, None to start them anew."""
        attempts.begin(self.folder, self.attempt)
        nodes, starts = self.attempt.nodes, self.attempt.start
        self.log_sizes = {path.name: path.stat().st_size for path in self.folder.glob("rank_*.log")}
        log.info("attempt %d of job %s on %s, start %d", self.restart + 1, self.job_id, ", ".join(nodes), starts + 1)
        for stale in self.folder.glob("start_*"):
            shutil.rmtree(stale, ignore_errors=True)
        self.start_folder.mkdir(parents=True)
        told = {HOSTS_VARIABLE: json.dumps(nodes), CLAIM_VARIABLE: str(self.claim.path)}
        try:
            srun.stage(self.spec, nodes)
            ranks = Srun.start(srun.command(self.spec, self.folder, self.start_folder, nodes), os.environ | told)
        except (OSError, SchedulerError, subprocess.CalledProcessError) as error:
            return self._failed(f"the ranks could not be started: {error}", "")
        looked = time.monotonic()
        while ranks.process.poll() is None:
            time.sleep(POLL_S)
            if time.monotonic() - looked > LOOK_S:
                looked = time.monotonic()
                if not self.claim.holds():
                    ranks.process.terminate()
                    return self._superseded()
            if self.terminating:
                self.terminating = False
                said = self._ask_scheduler(scheduler.BRIEFLY)
                if said is not Verdict.RUNNING:
                    return self._comply(said)
        return self._judge(ranks)

    def run_post_mortem(self, code: int) -> int:
        """What is left to do when the process of `run` has ended with an exit code other than 0.

        If it could still decide what happens next, that holds. Else it has been killed, or met an error of its own:
        a failure like any other. Ranks that are still there get the scheduler's signal, and save.
        """
        past = self.past
        if past and past[-1].restart == self.restart:
            if past[-1].outcome != RUNNING:
                return code
            self.attempt = past[-1]  # of the latest start
        how = f"was killed by {signal.Signals(code - 128).name}" if code > 128 else f"ended with exit code {code}"
        code = self._failed(f"the batch step on {self.nodes[0]} {how}", "")
        if code == 0 and self.start_folder.exists():
            self._await_ranks()
        return code

    def _judge(self, ranks: Srun) -> int | None:
        """All ranks have left: find out why, and act."""
        if not self.claim.holds():
            return self._superseded()
        if (self.start_folder / FINISHED_FILE).exists():
            self._record(FINISHED)
            shutil.rmtree(self.start_folder, ignore_errors=True)
            return 0
        said = self._ask_scheduler(self.patience)
        if said is not Verdict.RUNNING:
            return self._comply(said)
        if ranks.process.returncode == 0:
            signals = read_notes(self.start_folder, SIGNAL)
            return self._requeue(STOPPED, _why_stopped(signals[0].message) if signals else "left unfinished")
        self.attempt = replace(self.attempt, hopeless=bool(read_notes(self.start_folder, HOPELESS)))
        self.dead |= ranks.dead_nodes()
        reason, node, unfit = ranks.cause(self.folder, self.start_folder, self.log_sizes)
        if len(unfit) < max(2, len(self.attempt.nodes)):  # else it is nothing of the nodes
            self.unfit |= unfit
        if self._can_stay(reason, node):
            self._record(FAILED, reason, node)
            log.error("failed: %s; the ranks are started anew on the nodes that the job has", reason)
            return None
        return self._failed(reason, node)

    def _comply(self, said: Verdict) -> int:
        """The scheduler ends this attempt: keep its reason, and come back where it would not bring the job back."""
        log.info("the scheduler ends this attempt: %s", said.value)
        if said is Verdict.TIME_LIMIT:
            code = self._failed(said.value, "")
            self._await_ranks()
            return code
        outcome = CANCELLED if said is Verdict.CANCELLED else STOPPED
        self._record(outcome, said.value)
        self._await_ranks()
        self._record(outcome, said.value)
        return int(outcome == CANCELLED)

    def _superseded(self) -> int:
        """Leave without a word to the scheduler: the job is no longer this process's."""
        log.error("%s", SUPERSEDED)
        self._record(STOPPED, SUPERSEDED)
        return 1

    def _record(self, outcome: str, reason: str = "", node: str = "") -> None:
        self.attempt = replace(self.attempt, reason=reason, failed_node=node, decided=outcome)
        attempts.end(self.folder, self.attempt, outcome, reason, node, self._progress())

    def _await_ranks(self) -> None:
        """Stay until every rank has saved and left: when the batch step ends, SLURM kills the others at once.

        srun leaves early on SIGTERM and cannot be asked. If a rank does not leave, SLURM ends this process in time.
        """
        while len(list(self.start_folder.glob(f"{LEFT}_*"))) < self.spec.num_ranks and self.claim.holds():
            time.sleep(POLL_S)

    def _can_stay(self, reason: str, node: str) -> bool:
        """Whether the answer to this failure is another start on the nodes that the job has.

        Not where the same has just failed here without a step of progress: other nodes may help, or nothing does.
        """
        now = replace(self.attempt, outcome=FAILED, reason=reason, failed_node=node, progress=self._progress())
        past = [*self.past[:-1], now]
        if is_repeated(past) or not decide(past, self.spec.max_failures).try_again:
            return False
        if node and len({*self._fit_nodes()} - {node}) >= self.spec.num_nodes:
            self.unfit.add(node)  # a spare one takes its place
        return self.attempt.start < self.spec.restarts_in_place and len(self._fit_nodes()) >= self.spec.num_nodes

    def _failed(self, reason: str, node: str) -> int:
        """Record a failure; try again unless it has failed too often without getting further."""
        self._record(FAILED, reason, node)
        decision = decide(self.past, self.spec.max_failures)
        log.error("failed: %s", reason)
        if not decision.try_again:
            why = f"{self.spec.max_failures} failures in a row without getting further"
            log.error("given up: %s", "it would fail in the same way again" if self.attempt.hopeless else why)
            return 1
        return self._requeue(FAILED, reason, decision, node)

    def _requeue(self, outcome: str, reason: str, decision: Decision | None = None, node: str = "") -> int:
        if outcome == STOPPED:
            self._record(STOPPED, reason)
        log.info("back to the queue: %s", reason)
        left_out: tuple[str, ...] = ()
        if decision:
            needed = self.spec.num_nodes + self.spec.spare_nodes
            left_out = scheduler.nodes_to_leave_out((*decision.exclude, *self.unfit), self.job_id, needed)
        if not self.claim.holds():
            return self._superseded()
        try:
            scheduler.requeue(self.job_id, self.restart, self.patience)
        except SchedulerError as error:
            log.error("cannot requeue (%s); the same command goes on from the last checkpoint", error)
            self._record(outcome, f"{reason}; it could not be sent back to the queue: {error}", node)
            return 1
        if self.has_waited:
            self._record(outcome, reason, node)
        if left_out:  # possible only now that the job waits again; it cannot start before this process ends
            try:
                scheduler.exclude_nodes(self.job_id, left_out, self.patience)
            except SchedulerError as error:
                log.warning("%s cannot be left out: %s", ", ".join(left_out), error)
        return 0

    def _ask_scheduler(self, patience: Patience) -> Verdict:
        try:
            return scheduler.verdict(self.job_id, self.restart, patience)
        except SchedulerError as error:
            log.warning("the scheduler does not answer: %s", error)
            return Verdict.RUNNING

    def _progress(self) -> int:
        heartbeat = attempts.read_heartbeat(self.folder)
        return heartbeat.progress if heartbeat else -1


def _why_stopped(signal_name: str) -> str:
    """A stop signal in words; SIGUSR2 is what the job's script asks SLURM for."""
    said = "SIGUSR2 (preempted, or near the time limit)" if signal_name == signal.SIGUSR2.name else signal_name
    return f"asked to stop by {said}"


def main(folder: Path, code: int = 0) -> int:
    """Body of the batch step; returns the job's exit code. `code`: that of the process that this one follows."""
    log_to({logging.StreamHandler(sys.stdout): "%(asctime)s %(levelname)s %(message)s"})
    batch = Batch(folder, code)
    try:
        return batch.run_post_mortem(code) if code else batch.run()
    finally:
        batch.claim.release()


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), *map(int, sys.argv[2:])))
