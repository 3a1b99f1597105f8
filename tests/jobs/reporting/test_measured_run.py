"""What is read of a run: epochs from steps, whatever is logged; damaged lines counted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.planning.recipes import recipe
from jobs.reporting.measured_run import Run, load_run, summary, why_unfinished
from slurm import attempts, chain
from slurm.attempts import Attempt
from tests.jobs.run_folders import write_run


def _run(steps: list[int], steps_per_epoch: int) -> Run:
    lines = [{"step": step, "epoch": step // steps_per_epoch} for step in steps]
    return Run(Path("x"), recipe("digits").pretrain, "digits", True, [], {}, lines=lines)


@given(steps_per_epoch=st.integers(1, 500), epochs=st.integers(1, 200), every=st.integers(1, 100))
def test_steps_per_epoch_of_a_finished_run(steps_per_epoch: int, epochs: int, every: int) -> None:
    last = steps_per_epoch * epochs - 1
    run = _run([*range(0, last, every), last], steps_per_epoch)
    assert run.steps_per_epoch() == steps_per_epoch
    assert run.epochs()[-1] == epochs


@given(steps_per_epoch=st.integers(1, 500), steps=st.lists(st.integers(0, 10_000), min_size=1, max_size=50))
def test_steps_per_epoch_of_a_part_fits_every_line(steps_per_epoch: int, steps: list[int]) -> None:
    run = _run(sorted(steps), steps_per_epoch)
    assert 1 <= run.steps_per_epoch() <= steps_per_epoch
    assert all(step // run.steps_per_epoch() >= step // steps_per_epoch for step in steps)


def test_lines_that_cannot_be_read_are_counted(tmp_path: Path) -> None:
    write_run(tmp_path / "run", recipe("digits").pretrain, "digits")
    lines = [json.dumps({"step": step, "epoch": 0, "loss": 1.0, "elapsed_s": 5.0}) for step in (0, 20)]
    text = "\n".join([lines[0], '{"step": 1', "3", '{"step": "x", "epoch": 0}', lines[1], '{"step": 40'])
    (tmp_path / "run" / "metrics.jsonl").write_text(text)
    run = load_run(tmp_path / "run")
    assert [line["step"] for line in run.lines] == [0, 20]  # the last is being written
    assert run.damaged == ["3 lines of metrics.jsonl cannot be read"]
    assert run.duration() == "0:00:05"
    assert run.images_per_s() is None


def test_values_are_numbers_or_none() -> None:
    lines = [{"step": 0, "epoch": 0, "loss": value} for value in (1, 2.5, float("nan"), "3", None, True)]
    run = Run(Path("x"), recipe("digits").pretrain, "digits", True, [], {}, lines=[*lines, {"step": 1, "epoch": 0}])
    assert run.values("loss") == [1, 2.5, None, None, None, None, None]


def test_what_is_measured_now_and_then_has_neighbours() -> None:
    found = {1: {"knn_top1": 50.0}, 3: {"knn_top1": float("nan")}, 5: {"knn_top1": 70.0}}
    lines = [{"step": step, "epoch": step // 2, "loss": 1.0} | found.get(step, {}) for step in range(6)]
    run = Run(Path("x"), recipe("digits").pretrain, "digits", True, [], {}, lines=lines)
    assert run.logged("knn_top1") == ([1, 2, 3], [50, None, 70])
    assert run.logged("mfu") == ([], [])
    assert len(run.logged("loss")[0]) == 6


def test_what_is_no_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is no run folder"):
        load_run(tmp_path)


def test_it_says_how_often_a_run_was_started_and_why(tmp_path: Path) -> None:
    write_run(tmp_path / "run", recipe("digits").pretrain, "digits")
    job = chain.job_folder(tmp_path / "run", "pretrain")
    assert "Started" not in summary(load_run(tmp_path / "run"))
    for number, reason in enumerate(("rank 1 on n2: Killed", "asked to stop by SIGTERM", "rank 1 on n2: Killed", "")):
        attempt = Attempt("7", 0, ("n1", "n2"), float(number), start=number)
        attempts.begin(job, attempt)
        attempts.end(job, attempt, "failed" if reason else "finished", reason)
    said = "Started 4 times, again after: rank 1 on n2: Killed (2 times); asked to stop by SIGTERM."
    assert summary(load_run(tmp_path / "run")).endswith(said)


@pytest.mark.parametrize(
    ("outcomes", "said"),
    [
        ([], "Not finished."),
        ([("running", "")], "Not finished: it runs, or was ended without a word."),
        ([("stopped", "SIGTERM")], "Not finished: stopped (SIGTERM)."),
        ([("failed", "rank 0: BadSample: sample 3")], "Not finished: it failed (rank 0: BadSample: sample 3)."),
        (
            [("failed", "rank 1: Killed"), ("failed", "rank 1: Killed"), ("failed", "rank 0: no GPU")],
            "Given up after 3 failures in a row without getting further: rank 0: no GPU.",
        ),
    ],
)
def test_the_report_of_an_unfinished_run_says_why(tmp_path: Path, outcomes: list[tuple[str, str]], said: str) -> None:
    for number, (outcome, reason) in enumerate(outcomes):
        attempt = Attempt("7", 0, ("n1",), float(number), start=number)
        attempts.begin(chain.job_folder(tmp_path, "pretrain"), attempt)
        if outcome != "running":
            attempts.end(chain.job_folder(tmp_path, "pretrain"), attempt, outcome, reason, progress=5)
    assert why_unfinished(tmp_path) == said


def test_what_would_fail_again_is_given_up_at_once(tmp_path: Path) -> None:
    attempt = Attempt("7", 0, ("n1",), 1.0, hopeless=True)
    attempts.begin(chain.job_folder(tmp_path, "pretrain"), attempt)
    attempts.end(chain.job_folder(tmp_path, "pretrain"), attempt, "failed", "rank 0: the gradients stay non-finite")
    assert why_unfinished(tmp_path) == "Given up: rank 0: the gradients stay non-finite."


def test_weights_that_a_run_began_with_are_told(tmp_path: Path) -> None:
    write_run(tmp_path / "run", recipe("digits").pretrain, "digits")
    content = json.loads((tmp_path / "run" / "config.json").read_text())
    origin = {"source": "/w/official.pth", "sha256": "0123456789abcdef", "form": "state dict"}
    (tmp_path / "run" / "config.json").write_text(json.dumps(content | {"beginning": origin}))
    assert ", from weights of /w/official.pth (SHA-256 0123456789ab), " in summary(load_run(tmp_path / "run"))
