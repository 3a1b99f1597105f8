"""Chains of jobs: what SLURM is given, never twice; what is known of it survives; the same chain on this machine."""

from __future__ import annotations

import fcntl
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from slurm import owner
from slurm.calls import SchedulerError
from slurm.chain import JOBS_FILE, Member, Submitted, job_folder, read_jobs, run_here, submit
from slurm.cluster import Cluster
from slurm.local import JobFailed
from slurm.requeue import StopFlag
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
    return "".join(f"{job_id}|PENDING||Dependency|N/A|0:00|x.sh\n" for job_id in job_ids)


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
    slurm.says("scontrol update")
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
    message = (
        r"AssocMaxSubmitJobLimit; in the queue: pretrain \(101\), knn \(102\); not submitted: linear, report; "
        "the same command submits the rest when SLURM takes it"
    )
    with pytest.raises(SchedulerError, match=message):
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


def test_a_command_waits_for_another_that_submits(slurm: FakeSlurm, tmp_path: Path) -> None:
    other = owner.claim(tmp_path)
    thread = threading.Thread(target=submit, args=(tmp_path, _chain(), CLUSTER))
    thread.start()
    thread.join(0.3)
    assert not slurm.calls("squeue")
    other.release()
    thread.join()
    assert len(slurm.calls("sbatch")) == 4


def test_a_file_system_without_locks_is_no_obstacle(
    slurm: FakeSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", fail)
    assert len(submit(tmp_path, _chain(), CLUSTER)) == 4


def test_a_command_that_was_killed_before_it_kept_an_id_loses_no_job(slurm: FakeSlurm, tmp_path: Path) -> None:
    submit(tmp_path, _chain(), CLUSTER)
    (tmp_path / JOBS_FILE).unlink()
    script = job_folder(tmp_path, "pretrain") / "sbatch.sh"
    slurm.says("squeue", f"101|RUNNING|n1|None|N/A|0:10|{script}\n")
    jobs = submit(tmp_path, _chain()[:2], CLUSTER)
    assert [(job.name, job.job_id, job.is_new) for job in jobs] == [("pretrain", "101", False), ("knn", "105", True)]
    assert _dependencies(tmp_path)["knn"] == "afterok:101"


def test_a_waiting_report_waits_for_what_is_submitted_anew(slurm: FakeSlurm, tmp_path: Path) -> None:
    submit(tmp_path, _chain(), CLUSTER)
    slurm.says("squeue", _queue("103", "104"))  # pretrain is finished, knn has failed
    jobs = submit(tmp_path, _chain()[1:], CLUSTER)
    assert [(job.name, job.job_id) for job in jobs] == [("knn", "105"), ("linear", "103"), ("report", "104")]
    (update,) = slurm.calls("scontrol")
    assert update.command[1:] == ["update", "JobId=104", "Dependency=afterany:105:103"]
    assert read_jobs(tmp_path)["report"].dependency == "afterany:105:103"
    assert len(slurm.calls("sbatch")) == 5


def test_a_report_that_runs_already_is_followed_by_another(slurm: FakeSlurm, tmp_path: Path) -> None:
    submit(tmp_path, _chain(), CLUSTER)
    slurm.says("squeue", "104|RUNNING|n1|None|N/A|0:01|x.sh\n")
    jobs = submit(tmp_path, _chain()[1:], CLUSTER)
    assert [job.job_id for job in jobs] == ["105", "106", "107"]
    assert _dependencies(tmp_path)["report"] == "afterany:105:106"


def test_variables_that_would_beat_the_plan_are_said_and_taken_away(
    slurm: FakeSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    against = {"SBATCH_TIMELIMIT": "1", "SBATCH_NO_REQUEUE": "1", "SBATCH_EXPORT": "NONE", "SBATCH_PARTITION": "debug"}
    for name, value in against.items():
        monkeypatch.setenv(name, value)
    submit(tmp_path, _chain()[:1], replace(CLUSTER, partition="normal"))
    unused = "SBATCH_EXPORT=NONE, SBATCH_NO_REQUEUE=1, SBATCH_PARTITION=debug, SBATCH_TIMELIMIT=1"
    assert caplog.messages == [f"not used, for the plan holds: {unused}"]
    (call,) = slurm.calls("sbatch")
    assert not [name for name in call.environment if name.startswith("SBATCH_")]


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
