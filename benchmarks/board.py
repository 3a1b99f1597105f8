"""How long the board takes with many long runs: the first page, and a refresh while some of them go on.

`python benchmarks/board.py` writes 200 runs with 10,000 lines of metrics each to a temporary folder, and asks the board
as a browser does: the page, all runs, the curves of four. CPU seconds of this process stand beside the wall clock's,
which a busy machine stretches.
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # the tree that this file stands in, whatever is installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import tyro
from rich.table import Table

from border.terminal import Terminal
from jobs.planning.recipes import recipe
from jobs.serving.application import Application
from slurm import attempts, chain
from slurm.attempts import FINISHED, Attempt
from vicreg.config_json import to_json
from vicreg.schema import SCHEMA

STEPS_PER_EPOCH, LIVING = 100, 4


@dataclass(frozen=True)
class Board:
    """Measure the board."""

    runs: int = 200
    lines: int = 10_000
    """Of metrics in each run."""
    folder: Path | None = None
    """Where the runs are written, new; a temporary folder if none is given."""


def write_runs(folder: Path, num_runs: int, num_lines: int) -> list[Path]:
    """Runs as they lie there when they are finished; one line of a hundred has what is measured online."""
    values = to_json(recipe("digits").pretrain)
    text = "".join(_line(step) for step in range(num_lines))
    runs = [folder / f"run-{number:03}" for number in range(num_runs)]
    for number, run in enumerate(runs):
        run.mkdir(parents=True)
        values["optimizer"]["base_lr"], values["train"]["seed"] = 0.1 * (1 + number // 3), number % 3
        (run / "config.json").write_text(json.dumps({"schema": SCHEMA, "recipe": "digits", "pretrain": values}))
        (run / "metrics.jsonl").write_text(text)
        job = chain.job_folder(run, "pretrain")
        attempt = Attempt(f"pid {number + 2}", 0, ("n1",), 1e9 + number)
        attempts.begin(job, attempt)
        attempts.end(job, attempt, FINISHED, progress=num_lines)
    return runs


def _line(step: int) -> str:
    terms = {name: 20 * math.exp(-step / 3000) + 1 for name in ("loss", "invariance", "variance", "covariance")}
    speed = {"images_per_s": 812.3456789, "data_wait_share": 0.0123456789, "step_ms_p50": 310.5, "step_ms_p95": 322.5}
    more = {"embedding_std": 0.51234567, "effective_rank": 30.1234567, "gradient_norm": 0.12345678, "skipped_steps": 0}
    online = {"online_top1": 90 * (1 - math.exp(-step / 2000))} if step % STEPS_PER_EPOCH == STEPS_PER_EPOCH - 1 else {}
    numbers = {"learning_rate": 0.1, **terms, **more, **online, **speed, "elapsed_s": step * 0.31}
    return json.dumps({"step": step, "epoch": step // STEPS_PER_EPOCH, **numbers}) + "\n"


def ask(board: Application, token: str, what: str, query: str = "") -> Any:
    """One request, answered in this process."""
    environ = {"HTTP_HOST": "127.0.0.1", "REQUEST_METHOD": "GET", "PATH_INFO": f"/{token}/{what}"}
    said: list[str] = []
    body = b"".join(board(environ | {"QUERY_STRING": query}, lambda status, _: said.append(status)))
    assert said == ["200 OK"], said
    return json.loads(body) if what else body


def look(board: Application, token: str) -> dict[str, Any]:
    """Everything that a page asks for at once."""
    found: dict[str, Any] = ask(board, token, "runs")
    ids = list(found["runs"])[:LIVING]
    fields = "field=loss&field=online_top1&field=knn_top1&field=learning_rate"
    ask(board, token, "curves", "&".join([*(f"id={run_id}" for run_id in ids), fields]))
    return found


def timed(call: Callable[[], Any]) -> tuple[float, float]:
    """Seconds by the clock, and of CPU."""
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - wall_s, time.process_time() - cpu_s


def main(arguments: list[str]) -> int:
    """Write, ask, print."""
    options = tyro.cli(Board, args=arguments)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        runs = write_runs(folder, options.runs, options.lines)
        board = Application(folder, "token")
        rows = [("first page", timed(lambda: (ask(board, "token", ""), look(board, "token"))))]
        looks = 1
        while not all(run["is_read"] for run in look(board, "token")["runs"].values()):
            looks += 1
        for number in range(3):
            for run in runs[:LIVING]:
                with (run / "metrics.jsonl").open("a") as file:
                    file.write(_line(options.lines + number))
            rows.append((f"refresh {number + 1}, {LIVING} runs longer", timed(lambda: look(board, "token"))))
    table = Table(title=f"{options.runs} runs of {options.lines:,} lines, all measures known after {looks} refreshes")
    for title in ("", "seconds", "CPU seconds"):
        table.add_column(title)
    for name, (wall_s, cpu_s) in rows:
        table.add_row(name, f"{wall_s:.2f}", f"{cpu_s:.2f}")
    Terminal().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
