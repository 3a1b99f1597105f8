"""Chains of jobs: what SLURM is given, never twice; what is known of it survives; the same chain on this machine."""

from __future__ import annotations

import fcntl
import threading
from pathlib import Path

import pytest

from slurm.chain import JOBS_FILE, Member, Submitted, job_folder, read_jobs, run_here, submit
from slurm.cluster import Cluster
from slurm.local import JobFailed
from slurm.requeue import StopFlag
from slurm.scheduler import SchedulerError
from slurm.task import JobSpec, Task
from tests.slurm.conftest import FakeSlurm

THIS = "tests.slurm.test_chain"
CLUSTER = Cluster("mine")
HERE = Cluster("here", scheduler="local")


def note_and_end(task: Task, stop: StopFlag, done: str, name: str, how: str) -> bool:
    """Leave a line that says who ran, then end as told."""
    with Path(done).open("a") as file:
        file.write(f"{name}\n")
    if how == "raise":
        raise ValueError(f"{name} fails")
    if how.startswith("exit"):
        raise SystemExit(int(how.split()[1]))
    return how != "stop"


def _member(name: str, *after: str, done: Path = Path(), how: str = "finish", any_end: bool = False) -> Member:
    spec = JobSpec(name, f"{THIS}.note_and_end", {"done": str(done), "name": name, "how": how})
    return Member(spec, after, "afterany" if any_end else "afterok")


def _chain() -> list[Member]:
    evaluations = [_member("knn", "pretrain"), _member("linear", "pretrain")]
    return [_member("pretrain"), *evaluations, _member("report", "knn", "linear", any_end=True)]


def _queue(*job_ids: str) -> str:
    return "".join(f"{job_id}|PENDING||Dependency|N/A|0:00\n" for job_id in job_ids)


def _dependencies(run: Path) -> dict[str, str]:
    """The dependency of each job's script."""
    found = {}
    for script in sorted(run.glob("jobs/*/sbatch.sh")):
        lines = [line for line in script.read_text().splitlines() if line.startswith("#SBATCH --dependency=")]
        found[script.parent.name] = "".join(lines).removeprefix("#SBATCH --dependency=")
    return found


@pytest.fixture
def slurm(slurm: FakeSlurm) -> FakeSlurm:
    """A SLURM that takes jobs 101, 102, ... and shows an empty queue."""
    slurm.says("sbatch", "{number}\n")
    slurm.says("squeue")
    slurm.says("scontrol show job", "JobState=PENDING Restarts=0 ")
    return slurm


# --- on a cluster


def test_every_job_waits_for_those_before_it(slurm: FakeSlurm, tmp_path: Path) -> None:
    jobs = submit(tmp_path, _chain(), CLUSTER)
    assert [(job.name, job.job_id, job.is_new) for job in jobs] == [
        ("pretrain", "101", True),
        ("knn", "102", True),
        ("linear", "103", True),
        ("report", "104", True),
    ]
    assert _dependencies(tmp_path) == {
        "pretrain": "",
        "knn": "afterok:101",
        "linear": "afterok:101",
        "report": "afterany:102:103",
    }
    assert [Path(call.command[-1]).parent.name for call in slurm.calls("sbatch")] == [job.name for job in jobs]
    assert [(job.name, job.job_id, job.dependency, job.cluster) for job in read_jobs(tmp_path).values()] == [
        (job.name, job.job_id, job.dependency, "mine") for job in jobs
    ]
    spec = JobSpec.read(job_folder(tmp_path, "knn"))
    assert (spec.function, spec.arguments["name"]) == (f"{THIS}.note_and_end", "knn")


def test_a_job_from_outside_is_waited_for_by_all(slurm: FakeSlurm, tmp_path: Path) -> None:
    submit(tmp_path, _chain(), CLUSTER, after_job="17")
    dependencies = _dependencies(tmp_path)
    assert dependencies["pretrain"] == "afterok:17"
    assert dependencies["report"] == "afterok:17,afterany:102:103"


def test_what_waits_or_runs_is_not_submitted_again(slurm: FakeSlurm, tmp_path: Path) -> None:
    first = submit(tmp_path, _chain(), CLUSTER)
    slurm.says("squeue", _queue("101", "102", "103", "104", "999"))
    again = submit(tmp_path, _chain(), CLUSTER)
    assert [job.job_id for job in again] == [job.job_id for job in first]
    assert not any(job.is_new for job in again)
    assert len(slurm.calls("sbatch")) == 4


def test_what_has_ended_is_submitted_again_and_waits_only_for_what_is_there(slurm: FakeSlurm, tmp_path: Path) -> None:
    submit(tmp_path, _chain(), CLUSTER)
    slurm.says("squeue", _queue("102"))  # pretrain is finished, knn runs, linear and the report were removed
    jobs = submit(tmp_path, _chain()[1:], CLUSTER)
    assert [(job.name, job.job_id, job.is_new) for job in jobs] == [
        ("knn", "102", False),
        ("linear", "105", True),
        ("report", "106", True),
    ]
    assert _dependencies(tmp_path)["linear"] == ""
    assert _dependencies(tmp_path)["report"] == "afterany:102:105"
    assert [(job.name, job.job_id) for job in read_jobs(tmp_path).values()] == [
        ("pretrain", "101"),
        ("knn", "102"),
        ("linear", "105"),
        ("report", "106"),
    ]


def test_what_was_submitted_before_a_refusal_is_known(slurm: FakeSlurm, tmp_path: Path) -> None:
    refusal = "sbatch: error: AssocMaxSubmitJobLimit\n"
    slurm.says("sbatch", "{number}\n")
    slurm.says("sbatch", "{number}\n", after=1)
    slurm.says("sbatch", error=refusal, code=1, after=2)
    with pytest.raises(SchedulerError, match="AssocMaxSubmitJobLimit"):
        submit(tmp_path, _chain(), CLUSTER)
    assert {name: job.job_id for name, job in read_jobs(tmp_path).items()} == {"pretrain": "101", "knn": "102"}
    slurm.says("squeue", _queue("101", "102"))
    slurm.says("sbatch", "{number}\n")
    jobs = submit(tmp_path, _chain(), CLUSTER)
    assert [(job.job_id, job.is_new) for job in jobs] == [("101", False), ("102", False), ("104", True), ("105", True)]


def test_nothing_is_submitted_while_the_queue_is_not_known(slurm: FakeSlurm, tmp_path: Path) -> None:
    submit(tmp_path, _chain(), CLUSTER)
    slurm.says("squeue", error="slurm_load_jobs error: Unable to contact slurm controller\n", code=1)
    with pytest.raises(SchedulerError, match="Unable to contact slurm controller"):
        submit(tmp_path, _chain(), CLUSTER)
    assert len(slurm.calls("sbatch")) == 4


@pytest.mark.parametrize("damage", ["", '[{"name": "pretr', "\0\0\0\0", "[1]", '[{"name": "x"}]', "7", '[{"id": "1"}]'])
def test_a_damaged_list_of_jobs_is_refused_with_a_cure(slurm: FakeSlurm, tmp_path: Path, damage: str) -> None:
    (tmp_path / JOBS_FILE).write_text(damage)
    message = r"jobs\.json is damaged .*; look for its jobs with squeue, then remove it"
    with pytest.raises(ValueError, match=message):
        submit(tmp_path, _chain(), CLUSTER)
    assert not slurm.calls("sbatch")
    (tmp_path / JOBS_FILE).write_bytes(b"[\xff")
    with pytest.raises(ValueError, match=message):
        read_jobs(tmp_path)


def test_a_list_half_written_beside_its_place_does_no_harm(slurm: FakeSlurm, tmp_path: Path) -> None:
    submit(tmp_path, _chain()[:1], CLUSTER)
    (tmp_path / f".{JOBS_FILE}.7.tmp").write_text('[{"na')
    assert list(read_jobs(tmp_path)) == ["pretrain"]
    slurm.says("squeue", _queue("101"))
    assert not submit(tmp_path, _chain()[:1], CLUSTER)[0].is_new


def test_two_commands_at_the_same_time_submit_once(slurm: FakeSlurm, tmp_path: Path) -> None:
    slurm.says("squeue", _queue(*map(str, range(101, 120))), seconds=0.1)
    chains: list[list[Submitted]] = []
    threads = [threading.Thread(target=lambda: chains.append(submit(tmp_path, _chain(), CLUSTER))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(slurm.calls("sbatch")) == 4
    assert sorted(job.is_new for jobs in chains for job in jobs) == [False] * 8 + [True] * 4
    assert {tuple(job.job_id for job in jobs) for jobs in chains} == {("101", "102", "103", "104")}


def test_a_command_waits_for_another_that_holds_the_lock(
    slurm: FakeSlurm, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    with (tmp_path / ".jobs.lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        thread = threading.Thread(target=submit, args=(tmp_path, _chain(), CLUSTER))
        thread.start()
        while not caplog.messages:
            thread.join(0.01)
        assert caplog.messages == [f"waiting for another command that submits jobs of {tmp_path}"]
        assert not slurm.calls("squeue")
    thread.join()
    assert len(slurm.calls("sbatch")) == 4


# --- on this machine


def test_all_run_in_order(tmp_path: Path) -> None:
    done = tmp_path / "done"
    members = [_member("a", done=done), _member("b", "a", done=done), _member("c", "a", "b", done=done, any_end=True)]
    assert run_here(tmp_path, members, HERE)
    assert done.read_text().split() == ["a", "b", "c"]
    assert not (tmp_path / JOBS_FILE).exists()


@pytest.mark.parametrize(("how", "said"), [("raise", ": pretrain fails"), ("exit 1", "")])
def test_a_failure_skips_what_needs_it_and_nothing_else(tmp_path: Path, how: str, said: str) -> None:
    done = tmp_path / "done"
    members = [
        _member("pretrain", done=done, how=how),
        _member("knn", "pretrain", done=done),
        _member("after-knn", "knn", done=done),
        _member("alone", done=done),
        _member("report", "pretrain", "knn", done=done, any_end=True),
    ]
    with pytest.raises(JobFailed, match=rf"^failed: pretrain{said}$"):
        run_here(tmp_path, members, HERE)
    assert done.read_text().split() == ["pretrain", "alone", "report"]


def test_every_failure_is_named_at_the_end(tmp_path: Path) -> None:
    done = tmp_path / "done"
    members = [_member(name, done=done, how="exit 1") for name in ("a", "b")]
    with pytest.raises(JobFailed, match=r"^failed: a; b$"):
        run_here(tmp_path, members, HERE)


def test_a_stopped_job_skips_what_needs_it(tmp_path: Path) -> None:
    done = tmp_path / "done"
    members = [_member("a", done=done, how="stop"), _member("b", "a", done=done), _member("c", "b", done=done)]
    assert not run_here(tmp_path, [*members, _member("d", "b", done=done, any_end=True)], HERE)
    assert done.read_text().split() == ["a", "d"]


def test_the_error_of_a_single_job_is_raised_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a fails"):
        run_here(tmp_path, [_member("a", done=tmp_path / "done", how="raise")], HERE)


@pytest.mark.parametrize("code", [0, 1, 130])
def test_the_exit_code_of_a_single_job_is_that_of_the_command(tmp_path: Path, code: int) -> None:
    with pytest.raises(SystemExit) as left:
        run_here(tmp_path, [_member("a", done=tmp_path / "done", how=f"exit {code}")], HERE)
    assert left.value.code == code


def test_an_interrupt_ends_the_whole_chain(tmp_path: Path) -> None:
    done = tmp_path / "done"
    with pytest.raises(SystemExit) as left:
        run_here(tmp_path, [_member("a", done=done, how="exit 130"), _member("b", done=done)], HERE)
    assert left.value.code == 130
    assert done.read_text().split() == ["a"]
