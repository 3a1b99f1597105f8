"""What goes wrong on a cluster, with jobs that only count: each ends as it should, with its reason on record."""

from __future__ import annotations

import pytest

from drills.cluster_runs import Runs, outcomes
from slurm import attempts, chain
from slurm.chain import Member
from slurm.cluster import load, override
from slurm.task import JobSpec


def test_a_code_error_is_tried_again_until_the_limit(runs: Runs) -> None:
    job, job_id = runs.submit("no_such_function", num_nodes=1, ranks_per_node=2, profile={"max_failures": 2})
    assert runs.await_over(job_id) == "FAILED"
    assert outcomes(job) == ["failed", "failed"]
    assert "has no attribute 'no_such_function'" in attempts.read(job)[-1].reason
    assert "given up: 2 failures in a row" in (job / f"batch_{job_id}.log").read_text()
    shown = " ".join(runs.command("jobs/status.py", str(runs.folder / "run")).stdout.split())
    assert "given up" in shown
    assert "has no attribute 'no_such_function'" in shown


@pytest.mark.slow
def test_a_node_that_fails_twice_is_left_out(runs: Runs) -> None:
    job, job_id = runs.submit("fail_on_node", node="n1", num_nodes=2, profile={"max_failures": 4})
    assert runs.await_over(job_id) == "COMPLETED"
    past = attempts.read(job)
    assert [attempt.outcome for attempt in past] == ["failed", "failed", "finished"]
    assert [attempt.failed_node for attempt in past] == ["n1", "n1", ""]
    assert "n1 is broken" in past[0].reason
    assert "n1" not in past[-1].nodes


def test_memory_over_the_limit_ends_the_job_with_the_reason(runs: Runs) -> None:
    profile = {"mem_per_gpu_gb": 0.25, "max_failures": 1}
    job, job_id = runs.submit("eat_memory", gigabytes=1.5, num_nodes=1, ranks_per_node=2, profile=profile)
    assert runs.await_over(job_id) in ("FAILED", "OUT_OF_MEMORY")
    assert outcomes(job) == ["failed"]
    assert "emory" in attempts.read(job)[-1].reason


def test_a_hang_is_ended_with_the_stacks_of_all_ranks(runs: Runs) -> None:
    job, job_id = runs.submit("hang", num_nodes=2, ranks_per_node=2, profile={"hang_timeout_min": 0.05})
    assert runs.await_over(job_id) == "COMPLETED"
    assert outcomes(job) == ["failed", "finished"]
    assert "no step for 3 s" in attempts.read(job)[0].reason
    for rank in range(4):
        assert "counting.py" in (job / f"rank_{rank}.log").read_text()


def test_a_dead_chain_is_removed_and_the_last_job_still_comes(runs: Runs) -> None:
    run = runs.folder / "run"
    run.mkdir()
    function = "drills.counting"

    def member(name: str, what: str, after: tuple[str, ...] = (), condition: str = "afterok") -> Member:
        arguments = {"folder": str(chain.job_folder(run, name)), "steps": 2}
        return Member(JobSpec(name, f"{function}.{what}", arguments), after, condition)

    members = [
        member("first", "no_such_function"),
        member("second", "count", ("first",)),
        member("last", "count", ("second",), "afterany"),
    ]
    profile = override(load("devcluster"), max_failures=1)
    first, second, last = chain.submit(run, members, profile)
    again = chain.submit(run, members, profile)
    assert [job.job_id for job in again] == [first.job_id, second.job_id, last.job_id]
    assert not any(job.is_new for job in again)
    assert runs.await_over(first.job_id) == "FAILED"
    assert runs.await_over(second.job_id) == "CANCELLED"
    assert runs.await_over(last.job_id) == "COMPLETED"


def test_a_job_may_submit_jobs(runs: Runs) -> None:
    other = runs.folder / "other"
    other.mkdir()
    _, job_id = runs.submit("submit_another", run_of_other=str(other))
    assert runs.await_over(job_id) == "COMPLETED"
    inner = chain.read_jobs(other)["inner"]
    assert runs.await_over(inner.job_id) == "COMPLETED"
    assert "NumTasks=2" in runs.cluster.call("scontrol", "show", "job", inner.job_id)


def test_nothing_is_left_of_a_start(runs: Runs) -> None:
    job, job_id = runs.submit("count", steps=2)
    assert runs.await_over(job_id) == "COMPLETED"
    assert not list(job.glob("start_*"))
