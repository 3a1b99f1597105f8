"""kill -9 at moments that nobody chose: of everything, or of one rank. The same command ends in the same bits."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Sequence
from pathlib import Path

from drills.digits_runs import DigitsRuns, await_step, finish, kill_session, start
from drills.faults import descendants
from drills.tally import Drill
from slurm.devcluster import processes

KILLS = 2  # of each run
LONGEST_STEP_S = 0.5


def drills(runs: DigitsRuns) -> Sequence[Drill]:
    """All of this family."""

    def everything(number: int, folder: Path) -> None:
        _kill_and_go_on(runs, number, folder, one_rank=False)

    def one_rank(number: int, folder: Path) -> None:
        _kill_and_go_on(runs, number, folder, one_rank=True)

    return [
        Drill("kill -9 of a whole run", everything, 4),
        Drill("kill -9 of one rank", one_rank, 3),
    ]


def _kill_and_go_on(runs: DigitsRuns, number: int, folder: Path, one_rank: bool) -> None:
    draw = random.Random(1000 * one_rank + number)
    command = runs.command(folder / "run")
    for _ in range(KILLS):
        process = start(command)
        await_step(folder / "run", draw.randrange(18), process)
        time.sleep(draw.uniform(0, LONGEST_STEP_S))  # somewhere within a step, or a checkpoint
        if one_rank:
            ranks = descendants(process.pid)
            if ranks:
                processes.kill(draw.choice(ranks), signal.SIGKILL)
            process.wait(timeout=60)
        kill_session(process)
    finish(command)
    runs.require_same_bits(folder / "run")
