"""Pixels that are no numbers, or too large: the step is left out, nothing of it stays, and the run goes on."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from unittest import mock

import torch
from torch import Tensor

if __name__ == "__main__":  # the tree that this file stands in, whatever is installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from drills.digits_runs import DigitsRuns, finish, numbers, state
from drills.tally import Drill
from jobs.execution import pretrain
from jobs.options.pretrain import parse
from jobs.planning.run_folder import write_config
from slurm import local
from slurm.requeue import StopFlag
from slurm.task import JobSpec, Task
from vicreg.data.batches import Batch
from vicreg.training.learner import Learner

BAD_STEP = 2
"""Of the steps, counted from 0."""


def drills(runs: DigitsRuns) -> Sequence[Drill]:
    """All of this family."""

    def with_value(value: float) -> Drill:
        def attempt(number: int, folder: Path) -> None:
            _poison(runs, folder, value, rank=(number + 1) % 2)

        return Drill(f"a pixel of {value:g}", attempt)

    return [with_value(value) for value in (float("nan"), float("inf"), 1e30)]


def poisoned_job(task: Task, stop: StopFlag, run: str, value: float, rank: int) -> bool:
    """Pretraining in which one view of one rank has a pixel of this value at one step."""
    prepare, seen = Learner._view, iter(range(10**6))

    def poisoned(self: Learner, batch: Batch, view: int) -> Tensor:
        images = prepare(self, batch, view)
        if task.rank == rank and view == 0 and next(seen) == BAD_STEP:
            images[0, 0, 0, 0] = value
        return images

    with mock.patch.object(Learner, "_view", poisoned):
        return pretrain.run_job(task, stop, run)


def _poison(runs: DigitsRuns, folder: Path, value: float, rank: int) -> None:
    run = folder / "run"
    finish([sys.executable, "-m", "drills.values", str(run), str(value), str(rank), *runs.command(run)[2:]])
    lines, found = numbers(run), state(run)
    assert lines[-1]["skipped_steps"] == 1, f"{lines[-1]['skipped_steps']} steps were left out, right is 1"
    encoder = torch.load(run / "encoder.pt", weights_only=True)["encoder"]
    bad = [name for name, tensor in _tensors({"checkpoint": found, "encoder": encoder}) if not _is_finite(tensor)]
    assert not bad, f"not finite: {', '.join(bad[:5])}"


def _tensors(value: object, name: str = "") -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, dict):
        for key, entry in value.items():
            yield from _tensors(entry, f"{name}.{key}")


def _is_finite(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() or bool(torch.isfinite(tensor).all())


def main(run: Path, value: str, rank: str, options: list[str]) -> None:
    """A run of two ranks with such a pixel."""
    command = parse(options)
    write_config(run, command.recipe, command.config)
    arguments = {"run": str(run), "value": float(value), "rank": int(rank)}
    spec = JobSpec("pretrain", "drills.values.poisoned_job", arguments, ranks_per_node=2)
    if not local.launch(spec, run / "jobs" / "pretrain"):
        sys.exit("the run did not finish")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4:])
