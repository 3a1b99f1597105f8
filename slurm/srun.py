"""The ranks of one start of a job, from outside: how srun starts them, and what it and SLURM say of their deaths."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from border.terminal import complain
from slurm import scheduler
from slurm.scheduler import host_names
from slurm.task import ERROR, UNFIT, JobSpec, read_notes

ENDED = re.compile(r"srun: error: (\S+): tasks? ([\d,-]+): (.+)")
NODE_DIED = re.compile(r"srun: error: Node failure on (\S+)")
OUT_OF_MEMORY = re.compile(r"memory limit|oom[-_ ]kill", re.IGNORECASE)
LOG_END_BYTES = 8192
HERE = Path(__file__).resolve().parent  # programs by their paths, so that the ranks run this tree
KILLED = ("Killed", "Out Of Memory", "Segmentation fault", "Aborted", "Bus error", "Illegal instruction")
ALWAYS = ("--export=ALL", "--kill-on-bad-exit=1")  # whatever the site's or the user's default is


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
            complain(line.rstrip())

    def first_death(self) -> tuple[str, str]:
        """What became of the rank that died first, in words, and its node; empty when srun has said nothing of it."""
        deaths = [found.groups() for line in self.said if (found := ENDED.match(line))]
        deaths.sort(key=lambda death: not death[2].startswith(KILLED))
        if not deaths:
            return next((line for line in self.said if "error" in line), ""), ""
        node, ranks, how = deaths[0]
        return f"rank {ranks} on {node}: {how}", node

    def cause(self, folder: Path, start_folder: Path, log_sizes: dict[str, int]) -> tuple[str, str, set[str]]:
        """Why the ranks ended, the node to blame if one is, and the nodes that cannot take part.

        `log_sizes`: of the ranks' logs before this start.
        """
        errors, unfit = read_notes(start_folder, ERROR), read_notes(start_folder, UNFIT)
        if unfit:
            first = unfit[0]
            return f"{first.node} cannot take part: {first.message}", first.node, {note.node for note in unfit}
        if dead := sorted(self.dead_nodes()):  # srun then kills the other ranks, which are not the cause
            return f"SLURM has lost {', '.join(dead)}", dead[0], set()
        reason, node = self.first_death()
        if errors and not any(word in reason for word in KILLED):
            error = errors[0]
            reason, node = f"rank {error.rank} on {error.node}: {error.message}", error.node
        elif memory := memory_complaint(folder, log_sizes):
            reason = f"{reason} ({memory})"
        return reason or f"srun ended with exit code {self.process.returncode}", node, set()

    def dead_nodes(self) -> set[str]:
        """Nodes that SLURM has lost while the ranks ran."""
        return {node for line in self.said if (found := NODE_DIED.match(line)) for node in host_names(found[1])}


def command(spec: JobSpec, folder: Path, start_folder: Path, nodes: Sequence[str]) -> list[str]:
    """What starts the ranks on these of the job's nodes."""
    cpus = [f"--cpus-per-task={spec.cpus_per_rank}"] if spec.cpus_per_rank else []
    return [
        "srun",
        f"--nodes={spec.num_nodes}",
        f"--nodelist={','.join(nodes)}",
        f"--ntasks={spec.num_ranks}",
        f"--ntasks-per-node={spec.ranks_per_node}",
        *cpus,
        "--distribution=block",  # as the ranks are told where the others are
        *ALWAYS,
        *spec.srun_flags,
        f"--output={scheduler.file_name(folder)}/rank_%t.log",
        "--open-mode=append",
        sys.executable,
        "-u",
        str(HERE / "task.py"),
        str(folder),
        str(start_folder),
    ]


def stage(spec: JobSpec, nodes: Sequence[str]) -> None:
    """Copy files to each of these nodes."""
    for source in (spec.stage or {}).values():
        once_per_node = [f"--nodes={len(nodes)}", f"--nodelist={','.join(nodes)}", f"--ntasks={len(nodes)}"]
        once_per_node += ["--ntasks-per-node=1"]
        copy = [sys.executable, str(HERE / "stage_data.py"), source, spec.stage_folder]
        subprocess.run(["srun", *once_per_node, *ALWAYS, *spec.srun_flags, *copy], check=True)


def memory_complaint(folder: Path, sizes: dict[str, int]) -> str:
    """What SLURM wrote into a rank's log, after its size before, if it killed the rank for taking too much memory."""
    for log_file in sorted(folder.glob("rank_*.log")):
        with log_file.open("rb") as file:
            file.seek(max(0, log_file.stat().st_size - LOG_END_BYTES, sizes.get(log_file.name, 0)))
            lines = file.read().decode(errors="replace").splitlines()
        for line in lines:
            if OUT_OF_MEMORY.search(line):
                return line.split("error: ")[-1]
    return ""
