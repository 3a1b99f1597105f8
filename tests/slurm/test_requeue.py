"""Signals and decisions: what stops a process, what counts as a failure, which nodes are to blame."""

from __future__ import annotations

import dataclasses
import os
import signal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slurm import owner
from slurm.attempts import CANCELLED, FAILED, FINISHED, STOPPED, Attempt
from slurm.owner import Superseded
from slurm.requeue import STOP_SIGNALS, StopFlag, bad_nodes, decide, failures_in_a_row


def _attempt(outcome: str, progress: int = -1, node: str = "") -> Attempt:
    return Attempt("7", 0, ("n1", "n2"), 0.0, outcome, 1.0, "", node, progress)


def test_what_would_fail_in_the_same_way_is_not_tried_again() -> None:
    failed = _attempt(FAILED)
    assert decide([failed], 3).try_again
    assert not decide([failed, dataclasses.replace(failed, hopeless=True)], 3).try_again


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_stop_signal_sets_the_flag_and_nothing_else(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    first: list[str] = []
    with StopFlag(first.append) as stop:
        assert not stop()
        os.kill(os.getpid(), number)
        assert stop()
        assert stop.signal_name == number.name
        if number != signal.SIGINT:
            os.kill(os.getpid(), number)
    assert first == [number.name]
    assert signal.getsignal(number) == before


def test_a_closed_terminal_stops_a_run_unless_it_is_to_stay() -> None:
    """nohup has SIGHUP ignored in what it starts."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopFlag() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_asking_the_flag_says_who_has_taken_over(tmp_path: Path) -> None:
    held = owner.claim(tmp_path)
    with StopFlag(claim=held) as stop:
        assert not stop()
        owner.claim(tmp_path, "job 17, attempt 2", take_over=True)
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Superseded, match="taken over by job 17, attempt 2"):
            stop()


def test_a_second_ctrl_c_ends_at_once() -> None:
    with StopFlag() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_a_job_with_nothing_to_save_ends_at_once() -> None:
    with StopFlag() as stop:
        stop.interrupt_at_once()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
    with StopFlag() as stop:
        os.kill(os.getpid(), signal.SIGUSR2)
        with pytest.raises(KeyboardInterrupt):
            stop.interrupt_at_once()
    with StopFlag() as stop:
        stop.interrupt_at_once()
        stop.interrupt_at_once(False)
        signal.raise_signal(signal.SIGTERM)
        assert stop()


def _slow_count(attempts: list[Attempt]) -> int:
    """Failures from the attempt on that first got as far as any ever did."""
    furthest = max((a.progress for a in attempts), default=-1)
    first = next((i for i, a in enumerate(attempts) if a.progress == furthest), 0) if furthest > -1 else 0
    return sum(a.outcome == FAILED for a in attempts[first:])


@given(st.lists(st.builds(_attempt, st.sampled_from([FAILED, STOPPED, FINISHED, CANCELLED]), st.integers(-1, 5))))
def test_failures_count_from_where_the_job_got_furthest(attempts: list[Attempt]) -> None:
    assert failures_in_a_row(attempts) == _slow_count(attempts)


def test_a_job_that_gets_further_is_tried_again_and_one_that_does_not_is_given_up() -> None:
    further = [_attempt(FAILED, progress) for progress in (10, 20, 30, 40)]
    assert decide(further, max_failures=3).try_again
    stuck = [_attempt(FAILED, 10), _attempt(FAILED, 10)]
    assert decide(stuck, max_failures=3).try_again
    assert not decide([*stuck, _attempt(FAILED, 10)], max_failures=3).try_again
    interrupted = [_attempt(FAILED, 10), _attempt(STOPPED, 10), _attempt(FAILED, 10), _attempt(STOPPED, 10)]
    assert failures_in_a_row(interrupted) == 2


def test_a_node_is_bad_after_two_failures() -> None:
    once = [_attempt(FAILED, 1, "n1"), _attempt(FAILED, 2, "n2"), _attempt(STOPPED, 3, "n2")]
    assert bad_nodes(once) == ()
    assert bad_nodes([*once, _attempt(FAILED, 4, "n2")]) == ("n2",)
    assert decide([*once, _attempt(FAILED, 4, "n2")], 3).exclude == ("n2",)
