"""Chains of a sweep: never more pretrainings at a time than asked for, none submitted twice; here one after another."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from jobs.planning.sweep_chains import Lanes, Prepared, run_all, submit_all
from jobs.planning.sweeps import Trial
from slurm.chain import Member, Submitted, read_jobs
from slurm.cluster import Cluster
from slurm.local import JobFailed
from slurm.task import JobSpec
from tests.slurm.conftest import FakeSlurm
from tests.slurm.conftest import slurm as slurm
from tests.slurm.test_chain import HERE, _dependencies, _member, _queue

CLUSTER = Cluster("mine")
PLAN: Any = SimpleNamespace()


def _runs(folder: Path, num: int, done: Path = Path(), how: dict[int, str] | None = None) -> list[Prepared]:
    """So many runs of two jobs each."""
    found = []
    for number in range(num):
        name = f"run-{number}"
        first = _member("pretrain", done=done, how=(how or {}).get(number, "finish"))
        arguments = first.spec.arguments | {"name": name}
        learn = Member(JobSpec("pretrain", first.spec.function, arguments))
        found.append(
            Prepared(Trial(name, {}, number), folder / name, PLAN, [learn, _member("knn", "pretrain", done=done)])
        )
    return found


def _submit(folder: Path, runs: list[Prepared], at_once: int) -> str:
    console = Console(file=io.StringIO(), width=200)
    submit_all(folder, runs, CLUSTER, at_once, True, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def _waits(folder: Path, num: int) -> dict[str, str]:
    """By pretraining's id, what it waits for."""
    found = {}
    for number in range(num):
        run = folder / f"run-{number}"
        found[read_jobs(run)["pretrain"].job_id] = _dependencies(run)["pretrain"]
    return found


@pytest.fixture
def cluster(slurm: FakeSlurm) -> FakeSlurm:
    slurm.says("sbatch", "{number}\n")
    slurm.says("squeue")
    slurm.says("scontrol update")
    return slurm


def test_each_pretraining_waits_for_the_one_before_it_in_its_lane(cluster: FakeSlurm, tmp_path: Path) -> None:
    said = _submit(tmp_path, _runs(tmp_path, 4), 2)
    assert _waits(tmp_path, 4) == {"101": "", "103": "", "105": "afterany:101", "107": "afterany:103"}
    assert _dependencies(tmp_path / "run-2")["knn"] == "afterok:105"
    assert _dependencies(tmp_path) == {"report": "afterany:102:104:106:108"}
    assert "jobs submitted: 9; in the queue already: 0" in said


def test_without_a_limit_none_waits_for_another(cluster: FakeSlurm, tmp_path: Path) -> None:
    _submit(tmp_path, _runs(tmp_path, 3), 0)
    assert set(_waits(tmp_path, 3).values()) == {""}


def test_the_same_command_submits_what_is_not_there_behind_what_is(cluster: FakeSlurm, tmp_path: Path) -> None:
    _submit(tmp_path, _runs(tmp_path, 4), 2)
    # 101 and 103 are over, the one of run-1 without success; what else was submitted is in the queue.
    cluster.says("squeue", _queue("105", "106", "107", "108", "109"))
    runs = _runs(tmp_path, 4)
    runs[0] = Prepared(runs[0].trial, runs[0].run, PLAN, [])
    said = _submit(tmp_path, runs, 2)
    assert "jobs submitted: 2; in the queue already: 5" in said
    assert read_jobs(tmp_path / "run-1")["pretrain"].job_id == "110"
    assert _dependencies(tmp_path / "run-1")["pretrain"] == "afterany:105"
    assert [call.command[-1] for call in cluster.calls("scontrol")] == ["Dependency=afterany:111:106:108"]
    assert [job.name for job in read_jobs(tmp_path).values()] == ["report"]


def test_lanes_end_where_nobody_waits() -> None:
    def job(job_id: str, dependency: str = "") -> Submitted:
        return Submitted("pretrain", job_id, "mine", dependency, 0.0)

    there = [job("1"), job("2"), job("3", "afterany:1"), job("5", "afterok:9,afterany:3")]
    lanes = Lanes.there(2, there)
    assert [end.job_id for end in lanes.ends] == ["2", "5"]
    assert [end.job_id for end in lanes.next()] == ["2"]
    lanes.add(job("6", "afterany:2"))
    assert [end.job_id for end in lanes.next()] == ["5"]
    assert Lanes.there(4, there).next() == []


def _run(folder: Path, runs: list[Prepared]) -> bool:
    return run_all(folder, runs, HERE, False, Console(file=io.StringIO()))


def test_here_one_follows_another_and_a_failure_ends_only_its_own(tmp_path: Path) -> None:
    done = tmp_path / "done"
    runs = _runs(tmp_path, 3, done, {1: "raise"})
    runs.append(Prepared(Trial("finished", {}, 0), tmp_path / "finished", PLAN, []))
    with pytest.raises(JobFailed, match=r"1 of 4 runs failed, the others are done: run-1: failed: pretrain"):
        _run(tmp_path, runs)
    assert done.read_text().split() == ["run-0", "knn", "run-1", "run-2", "knn"]


def test_here_a_stop_ends_the_sweep(tmp_path: Path) -> None:
    done = tmp_path / "done"
    assert not _run(tmp_path, _runs(tmp_path, 3, done, {1: "stop"}))
    assert done.read_text().split() == ["run-0", "knn", "run-1"]
    assert _run(tmp_path, _runs(tmp_path, 2, done))
