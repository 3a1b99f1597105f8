"""Ranks as srun starts them, in processes of their own: who they are, whom they miss, and that none hangs for ever."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from jobs.planning.cli import placement_of
from slurm import hang_watchdog, owner, task
from slurm.owner import Superseded
from slurm.requeue import StopFlag
from slurm.task import ERROR, FINISHED_FILE, LEFT, SIGNAL, JobSpec, Task, read_notes
from vicreg.ranks.rendezvous import connected

ROOT = Path(__file__).parents[2]
FUNCTIONS = "tests.slurm.job_functions"


def meet(place: Task, stop: StopFlag) -> None:
    """Wait for the other ranks, as every job of the suite does."""
    with connected(placement_of(place), place.rendezvous, place.rendezvous_timeout_s):
        pass


class Job:
    """One start of a job, rank by rank."""

    def __init__(self, folder: Path, spec: JobSpec, hosts: tuple[str, ...]) -> None:
        self.folder, self.spec, self.hosts, self.start_folder = folder, spec, hosts, folder / "start_17_0"
        self.start_folder.mkdir(parents=True)
        self.claim = ""
        spec.write(folder)

    def variables(self, rank: int) -> dict[str, str]:
        """What SLURM and the batch step tell a rank."""
        node, local = divmod(rank, self.spec.ranks_per_node)
        variables = {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(local), "SLURM_NODEID": str(node)}
        variables |= {"SLURMD_NODENAME": self.hosts[node], "VICREG_HOSTS": json.dumps(self.hosts)}
        variables["VICREG_CLAIM"] = self.claim
        return variables | {"SLURM_NTASKS": str(self.spec.num_ranks), "PYTHONPATH": str(ROOT)}

    def start(self, rank: int) -> subprocess.Popen[str]:
        """Start one rank as srun does."""
        command = [sys.executable, str(ROOT / "slurm/task.py"), str(self.folder), str(self.start_folder)]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, env=os.environ | self.variables(rank), stdout=pipe, stderr=pipe, text=True)

    def fork(self, rank: int) -> BaseProcess:
        """Start one rank as a copy of this process, which has torch already."""
        process = multiprocessing.get_context("fork").Process(target=self._body, args=(rank,))
        process.start()
        return process

    def _body(self, rank: int) -> None:
        os.environ.update(self.variables(rank))
        with (self.folder / f"rank_{rank}.log").open("w") as sys.stderr:
            task.main(self.folder, self.start_folder)

    def run(self, *ranks: int) -> list[tuple[int, str]]:
        """Start some of the ranks together; the exit code and standard error of each."""
        processes = [self.start(rank) for rank in ranks]
        try:
            errors = [process.communicate(timeout=60)[1] for process in processes]
        finally:
            for process in processes:
                process.kill()
        return [(process.returncode, error) for process, error in zip(processes, errors, strict=True)]


def test_ranks_know_who_they_are_from_slurm_s_variables(tmp_path: Path) -> None:
    data = tmp_path / "train.beton"
    data.write_text("the data")
    spec = JobSpec(
        "job",
        f"{FUNCTIONS}.tell",
        {"folder": str(tmp_path)},
        num_nodes=2,
        ranks_per_node=2,
        cpus_per_rank=3,
        rendezvous_timeout_s=7,
        hang_timeout_s=8,
        interconnect_gb_s=25,
        interconnect_latency_us=9,
        stage={"train_beton": str(data)},
        stage_folder=str(tmp_path / "$SLURMD_NODENAME"),
    )
    job = Job(tmp_path / "job", spec, ("n1", "n4"))
    (tmp_path / "claim").touch()
    job.claim = str(tmp_path / "claim")
    assert job.run(0, 1, 2, 3) == [(0, "")] * 4
    for rank in range(4):
        assert json.loads((tmp_path / f"told_{rank}.json").read_text()) == {
            "rank": rank,
            "world_size": 4,
            "local_rank": rank % 2,
            "local_size": 2,
            "start_folder": str(job.start_folder),
            "cpus": 3,
            "hosts": ["n1", "n1", "n4", "n4"],
            "rendezvous_timeout_s": 7,
            "hang_timeout_s": 8,
            "interconnect_gb_s": 25,
            "interconnect_latency_us": 9,
            "claim": job.claim,
            "is_given": False,
            "has_terminal": False,
            "copies": {"train_beton": "the data"},
        }
    assert (
        len(list((tmp_path / "n1").glob("*/*/train.beton")))
        == len(list((tmp_path / "n4").glob("*/*/train.beton")))
        == 1
    )
    assert (job.start_folder / FINISHED_FILE).exists()
    assert [note.rank for note in read_notes(job.start_folder, LEFT)] != []
    assert {note.node for note in read_notes(job.start_folder, LEFT)} == {"n1", "n4"}


@pytest.mark.parametrize(
    ("present", "message"),
    [
        ((0, 1), r"ranks \[2 on n4\] of 3 did not come within 1 s"),
        ((1, 2), r"rank (1 on n2|2 on n4) waited 1 s for the address of rank 0 on n1 in .*; that rank did not start"),
    ],
)
def test_ranks_that_never_come_are_named_with_their_hosts(
    tmp_path: Path, present: tuple[int, ...], message: str
) -> None:
    """The first error is what the batch step keeps as the reason; that of a rank whose rank 0 has left comes later."""
    spec = JobSpec("job", f"{__name__}.meet", {}, num_nodes=3, rendezvous_timeout_s=1.0)
    job = Job(tmp_path / "job", spec, ("n1", "n2", "n4"))
    ranks = [job.fork(rank) for rank in present]
    for rank in ranks:
        rank.join(timeout=60)
    assert [rank.exitcode for rank in ranks] == [1, 1]
    notes = read_notes(job.start_folder, ERROR)
    assert {note.rank for note in notes} == set(present)
    assert re.match(f"RendezvousError: {message}", notes[0].message)
    assert not (job.start_folder / FINISHED_FILE).exists()


def test_a_rank_that_hangs_shows_its_stacks_and_ends(tmp_path: Path) -> None:
    spec = JobSpec("job", f"{FUNCTIONS}.get_stuck", {"steps": 5}, hang_timeout_s=0.6)
    job = Job(tmp_path / "job", spec, ("n1",))
    ((code, said),) = job.run(0)
    assert code == hang_watchdog.HUNG_EXIT_CODE
    assert "rank 0: no step for 1 s; the stacks of all threads stand in the log of each rank" in said
    assert "in _wait_for_ever" in said
    assert "in _watch" in said
    (note,) = read_notes(job.start_folder, ERROR)
    assert (note.node, note.message.split(";")[0]) == ("n1", "no step for 1 s")


def test_the_first_error_is_kept_with_its_node(tmp_path: Path) -> None:
    job = Job(tmp_path / "job", JobSpec("job", f"{FUNCTIONS}.fail", {"on_rank": 1}, num_nodes=2), ("n1", "n2"))
    ((code, said),) = job.run(1)
    assert code == 1
    assert "ValueError: no such data" in said
    (note,) = read_notes(job.start_folder, ERROR)
    assert (note.rank, note.message, note.node) == (1, "ValueError: no such data", "n2")
    Task(1, 2, 0, 1, str(job.start_folder)).note_error("a later one")
    assert [note.message for note in read_notes(job.start_folder, ERROR)] == ["ValueError: no such data"]


@pytest.mark.parametrize(
    ("phase", "times", "said"),
    [
        ("", 3, ["no step for", "no step for"]),
        ("a measurement", 3, []),
        ("a checkpoint", 3, ["a checkpoint took over", "no step for"]),
    ],
)
def test_what_takes_long_on_one_rank_is_no_hang_of_the_others(
    tmp_path: Path, phase: str, times: float, said: list[str]
) -> None:
    arguments = {"phase": phase, "times": times}
    spec = JobSpec("job", f"{FUNCTIONS}.be_slow", arguments, ranks_per_node=2, hang_timeout_s=1.0)
    job = Job(tmp_path / "job", spec, ("n1",))
    codes = [code for code, _ in job.run(0, 1)]
    notes = read_notes(job.start_folder, ERROR)
    told = {note.rank: note.message for note in notes}
    assert [told[rank].startswith(word) for rank, word in enumerate(said) if rank in told] == [True] * len(told)
    assert (0 in told) == bool(said)
    assert codes[0] == (hang_watchdog.HUNG_EXIT_CODE if said else 0)
    assert not list(job.start_folder.glob("phase_*")) or said


def test_a_rank_that_leaves_with_a_code_has_said_why_itself(tmp_path: Path) -> None:
    job = Job(tmp_path / "job", JobSpec("job", f"{FUNCTIONS}.fail", {"on_rank": 0, "code": 3}), ("n1",))
    assert [code for code, _ in job.run(0)] == [3]
    assert read_notes(job.start_folder, ERROR) == []
    assert not (job.start_folder / FINISHED_FILE).exists()


@pytest.mark.parametrize("rank", [0, 1])
def test_every_node_ends_with_its_next_question_when_another_attempt_has_taken_over(tmp_path: Path, rank: int) -> None:
    held = owner.claim(tmp_path, "job 17, attempt 1")
    (tmp_path / "start").mkdir()
    place = Task(rank, 2, 0, 1, str(tmp_path / "start"), claim=str(held.path))
    arguments = {"folder": str(tmp_path), "steps": 3}
    assert task.run(place, f"{FUNCTIONS}.ask_often", arguments)
    owner.claim(tmp_path, "job 17, attempt 2", take_over=True)
    with pytest.raises(Superseded, match="taken over by job 17, attempt 2 on"):
        task.run(place, f"{FUNCTIONS}.ask_often", arguments)
    assert "taken over by job 17, attempt 2" in read_notes(tmp_path / "start", ERROR)[0].message
    assert not (tmp_path / "step_0").exists()


def test_a_rank_that_hangs_is_ended_when_another_attempt_has_taken_over(tmp_path: Path) -> None:
    held = owner.claim(tmp_path / "job", "job 17, attempt 1")
    spec = JobSpec("job", f"{FUNCTIONS}.get_stuck", {"steps": 0})
    job = Job(tmp_path / "job", spec, ("n1",))
    job.claim = str(held.path)
    process = job.start(0)
    owner.claim(tmp_path / "job", "job 17, attempt 2", take_over=True)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == task.SUPERSEDED_EXIT_CODE, said


@pytest.mark.parametrize("how", ["well", "fail"])
def test_after_a_signal_a_rank_leaves_well_whatever_happens(tmp_path: Path, how: str) -> None:
    spec = JobSpec("job", f"{FUNCTIONS}.stop_late", {"folder": str(tmp_path), "how": how})
    job = Job(tmp_path / "job", spec, ("n1",))
    process = job.start(0)
    while not (tmp_path / "waits_0").exists() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGUSR2)
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert [note.message for note in read_notes(job.start_folder, SIGNAL)] == ["SIGUSR2"]
    assert [note.message for note in read_notes(job.start_folder, LEFT)] == ["SIGUSR2"]
    assert read_notes(job.start_folder, ERROR) == []
    assert not (job.start_folder / FINISHED_FILE).exists()
