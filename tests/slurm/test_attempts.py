"""A job's own record: whole lines count, damaged ones do no harm, several may write."""

from __future__ import annotations

import json
import multiprocessing
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slurm import attempts
from slurm.attempts import (
    ATTEMPTS_FILE,
    CANCELLED,
    FAILED,
    FINISHED,
    HEARTBEAT_FILE,
    RUNNING,
    STOPPED,
    Attempt,
    Heartbeat,
    Pulse,
)
from slurm.requeue import Decision, bad_nodes, decide, failures_in_a_row

FIRST = Attempt("17", 0, ("n1", "n2"), 100.0)
SECOND = Attempt("17", 1, ("n3",), 200.0)


def test_attempts_stand_as_they_were_last_noted(tmp_path: Path) -> None:
    folder = tmp_path / "jobs" / "pretrain"
    assert attempts.read(folder) == []
    attempts.begin(folder, FIRST)
    assert attempts.read(folder) == [FIRST]
    failed = attempts.end(folder, FIRST, FAILED, "rank 1: no\nmemory ünï", "n2", 40)
    attempts.begin(folder, SECOND)
    stopped = attempts.end(folder, SECOND, STOPPED, progress=60)
    assert attempts.read(folder) == [failed, stopped]
    assert replace(failed, ended=0) == replace(
        FIRST, outcome=FAILED, reason="rank 1: no\nmemory ünï", failed_node="n2", progress=40
    )
    assert [attempts.outcomes([failed, stopped], outcome) for outcome in (FAILED, STOPPED, FINISHED)] == [1, 1, 0]


def test_an_attempt_that_outlives_the_next_one_ends_itself(tmp_path: Path) -> None:
    attempts.begin(tmp_path, FIRST)
    attempts.close_forgotten(tmp_path, 30)
    attempts.begin(tmp_path, SECOND)
    attempts.end(tmp_path, FIRST, STOPPED, "requeued by the scheduler", progress=33)
    first, second = attempts.read(tmp_path)
    assert (first.outcome, first.reason, first.progress) == (STOPPED, "requeued by the scheduler", 33)
    assert second == SECOND


def test_only_a_forgotten_attempt_is_closed(tmp_path: Path) -> None:
    attempts.close_forgotten(tmp_path, 5)
    assert attempts.read(tmp_path) == []
    attempts.begin(tmp_path, FIRST)
    attempts.close_forgotten(tmp_path, 30)
    (closed,) = attempts.read(tmp_path)
    assert (closed.outcome, closed.progress) == (STOPPED, 30)
    assert closed.reason.startswith("ended without a word")
    attempts.close_forgotten(tmp_path, 99)
    assert attempts.read(tmp_path) == [closed]


def test_what_was_decided_holds_although_the_answer_was_not_heard(tmp_path: Path) -> None:
    """A batch step that asks for the requeue is itself ended by it, perhaps while it still asks how that went."""
    decided = replace(FIRST, decided=FAILED, failed_node="n1")
    attempts.end(tmp_path, decided, FAILED, "n1 is broken", "n1", 7)
    attempts.begin(tmp_path, replace(decided, reason=f"n1 is broken; {attempts.WAITS}: scontrol show job 1: timed out"))
    assert attempts.read(tmp_path)[-1].outcome == RUNNING
    attempts.close_forgotten(tmp_path, 9)
    (closed,) = attempts.read(tmp_path)
    assert (closed.outcome, closed.reason, closed.failed_node) == (FAILED, "n1 is broken", "n1")


@settings(max_examples=50)
@given(cut=st.integers(0, 400))
def test_a_line_that_was_cut_costs_itself_alone(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    folder = tmp_path_factory.mktemp("job")
    attempts.begin(folder, FIRST)
    whole = (folder / ATTEMPTS_FILE).read_bytes()
    attempts.end(folder, FIRST, FINISHED, "x" * 100)
    (folder / ATTEMPTS_FILE).write_bytes((folder / ATTEMPTS_FILE).read_bytes()[:cut])
    survived = {FIRST} if cut >= len(whole) - 1 else set()
    assert {replace(a, outcome=RUNNING, reason="", ended=0.0) for a in attempts.read(folder)} == survived
    attempts.begin(folder, SECOND)
    assert attempts.read(folder)[-1] == SECOND
    assert len(attempts.read(folder)) == len(survived) + 1


@pytest.mark.parametrize("damage", [b"\0" * 50, b"\xff\xfe", b"[]", b"7", b"null", b'{"job_id": "1"}', b'"text"', b"{"])
def test_damaged_lines_are_passed_over(tmp_path: Path, damage: bytes) -> None:
    attempts.begin(tmp_path, FIRST)
    with (tmp_path / ATTEMPTS_FILE).open("ab") as file:
        file.write(damage + b"\n")
    attempts.begin(tmp_path, SECOND)
    assert attempts.read(tmp_path) == [FIRST, SECOND]


def test_keys_of_a_newer_version_do_no_harm(tmp_path: Path) -> None:
    (tmp_path / ATTEMPTS_FILE).write_text(json.dumps({**asdict(FIRST), "new": 1}) + "\n")
    assert attempts.read(tmp_path) == [FIRST]


def _write_many(folder: Path, writer: int) -> None:
    for number in range(100):
        attempt = Attempt(str(writer), number, (f"n{writer}",), 1.0)
        attempts.begin(folder, attempt)
        attempts.end(folder, attempt, FAILED, "why " * 500, progress=number)
        Pulse(folder, 10**12).beat(writer * 10**9 + number, at_once=True)


def test_two_writers_lose_nothing(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_write_many, args=(tmp_path, writer)) for writer in (1, 2)]
    for writer in writers:
        writer.start()
    seen = set()
    while any(writer.is_alive() for writer in writers):
        seen.add(attempts.read_heartbeat(tmp_path))
    assert [writer.exitcode for writer in writers] == [0, 0]
    found = {(attempt.job_id, attempt.restart, attempt.outcome) for attempt in attempts.read(tmp_path)}
    assert found == {(str(writer), number, FAILED) for writer in (1, 2) for number in range(100)}
    assert len(seen) > 2  # always a whole heartbeat, or none before the first
    assert all(beat.total == 10**12 for beat in seen - {None} if beat)


# --- heartbeat


@pytest.mark.parametrize("content", ["", '{"progress": 3, "tot', "[]", "null", "\0\0", '{"progress": 3}', '{"x": 1}'])
def test_a_heartbeat_that_is_not_whole_is_none(tmp_path: Path, content: str) -> None:
    assert attempts.read_heartbeat(tmp_path) is None
    (tmp_path / HEARTBEAT_FILE).write_text(content)
    assert attempts.read_heartbeat(tmp_path) is None


def test_a_half_written_heartbeat_leaves_the_one_before(tmp_path: Path) -> None:
    Pulse(tmp_path, 10).beat(3)
    (tmp_path / f".{HEARTBEAT_FILE}.99.tmp").write_text('{"progress": 4, "to')
    beat = attempts.read_heartbeat(tmp_path)
    assert beat == Heartbeat(3, 10, beat.time if beat else -1)


def test_the_pulse_is_slow_unless_it_matters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    pulse, shown = Pulse(tmp_path, 10), []
    for progress, at_s, at_once in [(1, 0.0, False), (2, 1.9, False), (3, 2.0, False), (4, 2.1, True), (5, 4.0, False)]:
        clock[0] = 100.0 + at_s
        pulse.beat(progress, at_once)
        beat = attempts.read_heartbeat(tmp_path)
        shown.append(beat.progress if beat else None)
    pulse.beat(10)
    last = attempts.read_heartbeat(tmp_path)
    assert [*shown, last.progress if last else None] == [1, 1, 3, 4, 4, 10]


# --- what is decided from the record (slurm/requeue.py)

ATTEMPTS = st.lists(
    st.builds(
        lambda outcome, progress, node: Attempt("7", 0, ("n1",), 0.0, outcome, 1.0, "", node, progress),
        st.sampled_from([FAILED, FAILED, STOPPED, FINISHED, CANCELLED, RUNNING]),
        st.integers(-1, 4),
        st.sampled_from(["", "n1", "n2", "n10"]),
    ),
    max_size=8,
)


@given(ATTEMPTS, st.integers(1, 4))
def test_decisions_as_a_plain_restatement_takes_them(past: list[Attempt], max_failures: int) -> None:
    """Counted anew after each attempt: how many failed since the furthest progress was first reached."""
    furthest = max([attempt.progress for attempt in past], default=-1)
    since = next((i for i, attempt in enumerate(past) if attempt.progress == furthest > -1), 0)
    failed = [attempt for attempt in past[since:] if attempt.outcome == FAILED]
    nodes = {node: [a.failed_node for a in past if a.outcome == FAILED].count(node) for node in ("n1", "n2", "n10")}
    excluded = tuple(node for node in ("n1", "n10", "n2") if nodes[node] > 1)
    assert failures_in_a_row(past) == len(failed)
    assert bad_nodes(past) == excluded
    assert decide(past, max_failures) == Decision(len(failed) < max_failures, excluded)


@given(ATTEMPTS, st.integers(1, 4))
def test_a_job_that_never_gets_further_is_given_up_after_so_many_failures(past: list[Attempt], limit: int) -> None:
    stuck = replace(FIRST, outcome=FAILED, progress=max([-1, *(attempt.progress for attempt in past)]))
    tries = 0
    while decide([*past, *[stuck] * (tries + 1)], limit).try_again:
        tries += 1
    assert failures_in_a_row(past) + tries + 1 == max(limit, failures_in_a_row(past) + 1)
    assert decide([*past, replace(stuck, progress=stuck.progress + 1)], max(limit, 2)).try_again


def test_the_record_survives_a_round_trip_through_the_file(tmp_path: Path) -> None:
    for number, outcome in enumerate([FAILED, STOPPED, FAILED]):
        attempt = Attempt("7", number, ("n1",), float(number))
        attempts.begin(tmp_path, attempt)
        attempts.end(tmp_path, attempt, outcome, failed_node="n1", progress=10)
    assert decide(attempts.read(tmp_path), 3) == Decision(True, ("n1",))
    assert decide(attempts.read(tmp_path), 2) == Decision(False, ("n1",))
