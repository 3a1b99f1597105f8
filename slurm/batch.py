"""The batch step of a job: starts the ranks with srun, waits, and decides with the scheduler what happens next.

submitit's own handler runs on rank 0 only, leaves the others running, counts every preemption of a short job as a
timeout, and is gone when rank 0 is. This process is none of the ranks: it sees every one of them end, knows why, and is
the only one that asks for a requeue. As a program: python -m slurm.batch JOB_FOLDER.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from slurm import attempts, scheduler
from slurm.attempts import CANCELLED, FAILED, FINISHED, STOPPED, Attempt
from slurm.requeue import Decision, decide
from slurm.scheduler import SchedulerError, Verdict
from slurm.task import ERROR, FINISHED_FILE, HOSTS_VARIABLE, LEFT, SIGNAL, JobSpec, read_notes

log = logging.getLogger(__name__)

POLL_S = 0.2
ENDED = re.compile(r"srun: error: (\S+): tasks? ([\d,-]+): (.+)")
OUT_OF_MEMORY = re.compile(r"memory limit|oom[-_ ]kill", re.IGNORECASE)
LOG_END_BYTES = 8192
KILLED = ("Killed", "Out Of Memory", "Segmentation fault", "Aborted", "Bus error", "Illegal instruction")


@dataclass
class Srun:
    """The ranks of one start, and what srun says of them on its standard error."""

    process: subprocess.Popen[str]
    said: list[str] = field(default_factory=list)

    @classmethod
    def start(cls, command: list[str], environment: dict[str, str]) -> Srun:
        """Start srun; its words are passed on to this process's output as they come."""
        process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, bufsize=1)
        started = cls(process)
        threading.Thread(target=started._listen, daemon=True).start()
        return started

    def _listen(self) -> None:
        assert self.process.stderr
        for line in self.process.stderr:
            self.said.append(line.rstrip())
            print(line, end="", file=sys.stderr, flush=True)

    def first_death(self) -> tuple[str, str]:
        """What became of the rank that died first, in words, and its node; empty when srun has said nothing of it."""
        deaths = [found.groups() for line in self.said if (found := ENDED.match(line))]
        deaths.sort(key=lambda death: not death[2].startswith(KILLED))
        if not deaths:
            return next((line for line in self.said if "error" in line), ""), ""
        node, ranks, how = deaths[0]
        return f"rank {ranks} on {node}: {how}", node


class Batch:
    """One attempt of a job, from the side of its batch step."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.spec = JobSpec.read(folder)
        self.job_id = os.environ["SLURM_JOB_ID"]
        self.restart = int(os.environ.get("SLURM_RESTART_COUNT", "0"))
        self.nodes = scheduler.host_names(os.environ["SLURM_JOB_NODELIST"])
        self.attempt = Attempt(self.job_id, self.restart, self.nodes, time.time())
        self.start_folder = folder / f"start_{self.job_id}_{self.restart}"
        self.log_sizes = {path.name: path.stat().st_size for path in folder.glob("rank_*.log")}
        self.terminating = False
        signal.signal(signal.SIGTERM, self._note_termination)
        for number in (signal.SIGUSR1, signal.SIGUSR2):  # these are for the ranks
            signal.signal(number, lambda *_: None)

    def _note_termination(self, *_: object) -> None:
        self.terminating = True

    def run(self) -> int:
        """The whole attempt; returns the exit code of the job."""
        attempts.close_forgotten(self.folder, self._progress())
        attempts.begin(self.folder, self.attempt)
        log.info("attempt %d of job %s on %s", self.restart + 1, self.job_id, ", ".join(self.nodes))
        if shutil.which("scontrol") is None:
            log.warning("scontrol is not on this node's PATH: the job cannot send itself back to the queue")
        for stale in self.folder.glob("start_*"):
            shutil.rmtree(stale, ignore_errors=True)
        self.start_folder.mkdir(parents=True)
        try:
            self._stage()
            ranks = Srun.start(self._command(), os.environ | {HOSTS_VARIABLE: json.dumps(self.nodes)})
        except (OSError, SchedulerError, subprocess.CalledProcessError) as error:
            return self._failed(f"the ranks could not be started: {error}", "")
        while ranks.process.poll() is None:
            time.sleep(POLL_S)
            if self.terminating:
                self.terminating = False
                said = self._ask_scheduler()
                if said is not Verdict.RUNNING:
                    return self._comply(said)
        return self._judge(ranks)

    def _judge(self, ranks: Srun) -> int:
        """All ranks have left: find out why, and act."""
        if (self.start_folder / FINISHED_FILE).exists():
            attempts.end(self.folder, self.attempt, FINISHED, progress=self._progress())
            shutil.rmtree(self.start_folder, ignore_errors=True)
            return 0
        said = self._ask_scheduler()
        if said is not Verdict.RUNNING:
            return self._comply(said)
        if ranks.process.returncode == 0:
            signals = read_notes(self.start_folder, SIGNAL)
            return self._requeue(STOPPED, _why_stopped(signals[0].message) if signals else "left unfinished")
        errors = read_notes(self.start_folder, ERROR)
        reason, node = ranks.first_death()
        if errors and not any(word in reason for word in KILLED):
            first = errors[0]
            reason, node = f"rank {first.rank} on {first.node}: {first.message}", first.node
        elif memory := self._memory_complaint():
            reason = f"{reason} ({memory})"
        return self._failed(reason or f"srun ended with exit code {ranks.process.returncode}", node)

    def _memory_complaint(self) -> str:
        """What SLURM wrote into a rank's log if it killed the rank for taking too much memory."""
        for log_file in sorted(self.folder.glob("rank_*.log")):
            with log_file.open("rb") as file:
                file.seek(max(0, log_file.stat().st_size - LOG_END_BYTES, self.log_sizes.get(log_file.name, 0)))
                lines = file.read().decode(errors="replace").splitlines()
            for line in lines:
                if OUT_OF_MEMORY.search(line):
                    return line.split("error: ")[-1]
        return ""

    def _comply(self, said: Verdict) -> int:
        """The scheduler ends this attempt: keep its reason, and come back where it would not bring the job back."""
        log.info("the scheduler ends this attempt: %s", said.value)
        if said is Verdict.TIME_LIMIT:
            code = self._failed(said.value, "")
            self._await_ranks()
            return code
        outcome = CANCELLED if said is Verdict.CANCELLED else STOPPED
        attempts.end(self.folder, self.attempt, outcome, said.value, progress=self._progress())
        self._await_ranks()
        attempts.end(self.folder, self.attempt, outcome, said.value, progress=self._progress())
        return int(outcome == CANCELLED)

    def _await_ranks(self) -> None:
        """Stay until every rank has saved and left: when the batch step ends, SLURM kills the others at once.

        srun leaves early on SIGTERM and cannot be asked. If a rank does not leave, SLURM ends this process in time.
        """
        while len(list(self.start_folder.glob(f"{LEFT}_*"))) < self.spec.num_ranks:
            time.sleep(POLL_S)

    def _failed(self, reason: str, node: str) -> int:
        """Record a failure; try again unless it has failed too often without getting further."""
        attempts.end(self.folder, self.attempt, FAILED, reason, node, self._progress())
        decision = decide(attempts.read(self.folder), self.spec.max_failures)
        log.error("failed: %s", reason)
        if not decision.try_again:
            log.error("given up: %d failures in a row without getting further", self.spec.max_failures)
            return 1
        return self._requeue(FAILED, reason, decision)

    def _requeue(self, outcome: str, reason: str, decision: Decision | None = None) -> int:
        if outcome == STOPPED:
            attempts.end(self.folder, self.attempt, STOPPED, reason, progress=self._progress())
        log.info("back to the queue: %s", reason)
        try:
            left_out = self._nodes_to_leave_out(decision.exclude) if decision else ()
            scheduler.requeue(self.job_id, self.restart)
            if left_out:  # possible only now that the job waits again; it cannot start before this process ends
                scheduler.exclude_nodes(self.job_id, left_out)
        except SchedulerError as error:
            log.error("cannot requeue (%s); the same command goes on from the last checkpoint", error)
            return 1
        return 0

    def _nodes_to_leave_out(self, nodes: tuple[str, ...]) -> tuple[str, ...]:
        """The nodes that failed twice, if enough others are left."""
        if not nodes:
            return ()
        partition = os.environ.get("SLURM_JOB_PARTITION", "")
        in_partition = [found.num_nodes for found in scheduler.partitions() if found.name == partition]
        if in_partition and in_partition[0] - len(nodes) < self.spec.num_nodes:
            log.warning("%s failed twice, but too few other nodes are left to leave it out", ", ".join(nodes))
            return ()
        log.warning("left out of the next start, after two failures: %s", ", ".join(nodes))
        return nodes

    def _ask_scheduler(self) -> Verdict:
        try:
            return scheduler.verdict(self.job_id, self.restart)
        except SchedulerError as error:
            log.warning("the scheduler does not answer: %s", error)
            return Verdict.RUNNING

    def _progress(self) -> int:
        heartbeat = attempts.read_heartbeat(self.folder)
        return heartbeat.progress if heartbeat else -1

    def _stage(self) -> None:
        """Copy files to every node."""
        for source in (self.spec.stage or {}).values():
            command = ["srun", f"--nodes={self.spec.num_nodes}", f"--ntasks={self.spec.num_nodes}"]
            command += ["--ntasks-per-node=1", "--kill-on-bad-exit=1", sys.executable, "-m", "slurm.stage_data"]
            subprocess.run([*command, source, self.spec.stage_folder], check=True)

    def _command(self) -> list[str]:
        spec = self.spec
        cpus = [f"--cpus-per-task={spec.cpus_per_rank}"] if spec.cpus_per_rank else []
        return [
            "srun",
            f"--nodes={spec.num_nodes}",
            f"--ntasks={spec.num_ranks}",
            f"--ntasks-per-node={spec.ranks_per_node}",
            *cpus,
            "--kill-on-bad-exit=1",
            f"--output={scheduler.file_name(self.folder)}/rank_%t.log",
            "--open-mode=append",
            sys.executable,
            "-u",
            "-m",
            "slurm.task",
            str(self.folder),
            str(self.start_folder),
        ]


def _why_stopped(signal_name: str) -> str:
    """A stop signal in words; SIGUSR2 is what the job's script asks SLURM for."""
    said = "SIGUSR2 (preempted, or near the time limit)" if signal_name == signal.SIGUSR2.name else signal_name
    return f"asked to stop by {said}"


def main(folder: Path) -> int:
    """Body of the batch step; returns the job's exit code."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stdout)
    return Batch(folder).run()


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
