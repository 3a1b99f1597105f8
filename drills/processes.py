"""Signals to a run on this machine: it saves and leaves, or stays where it is wanted to, and no step is lost."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from pathlib import Path

from drills.digits_runs import STEPS, STOPPED_EXIT_CODE, DigitsRuns, await_step, finish, numbers, start, state
from drills.tally import Drill


def drills(runs: DigitsRuns) -> Sequence[Drill]:
    """All of this family."""

    def stop_by(name: str, number: signal.Signals, to_all: bool) -> Drill:
        def attempt(which: int, folder: Path) -> None:
            _stop_and_go_on(runs, folder, number, to_all, after=3 + 5 * which)

        return Drill(name, attempt)

    def nohup(which: int, folder: Path) -> None:
        process = start(runs.command(folder / "run"), hangup=signal.SIG_IGN)
        await_step(folder / "run", 3 + 5 * which, process)
        os.killpg(process.pid, signal.SIGHUP)
        assert process.wait(timeout=120) == 0, f"exit code {process.returncode}"
        runs.require_same_bits(folder / "run")

    def closed_pipe(which: int, folder: Path) -> None:
        reader, writer = os.pipe()
        process = start(runs.command(folder / "run"), output=writer)
        os.close(writer)
        await_step(folder / "run", 3 + 5 * which, process)
        os.close(reader)
        process.wait(timeout=60)
        _require_all_saved_and_go_on(runs, folder)

    return [
        stop_by("Ctrl-C", signal.SIGINT, to_all=True),
        stop_by("a closed terminal", signal.SIGHUP, to_all=True),
        stop_by("kill of the launcher", signal.SIGTERM, to_all=False),
        Drill("a closed terminal, with nohup", nohup),
        Drill("a closed pipe", closed_pipe),
    ]


def _stop_and_go_on(runs: DigitsRuns, folder: Path, number: signal.Signals, to_all: bool, after: int) -> None:
    process = start(runs.command(folder / "run"))
    await_step(folder / "run", after, process)
    (os.killpg if to_all else os.kill)(process.pid, number)
    code = process.wait(timeout=60)
    assert code == STOPPED_EXIT_CODE, f"exit code {code}, right is {STOPPED_EXIT_CODE}"
    _require_all_saved_and_go_on(runs, folder)


def _require_all_saved_and_go_on(runs: DigitsRuns, folder: Path) -> None:
    step = state(folder / "run")["step"]
    assert numbers(folder / "run")[-1]["step"] == step - 1, "a step was lost"
    assert step < STEPS, "the run did not stop"
    finish(runs.command(folder / "run"))
    runs.require_same_bits(folder / "run")
