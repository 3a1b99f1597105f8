"""What a run says while it goes on: metrics.jsonl, TensorBoard, Weights & Biases, the terminal; on rank 0 only."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from disk.whole_files import room_for
from vicreg.method_file import Term
from vicreg.run_files import METRICS_FILE, cut_behind

BAR_COLUMNS = 12

log = logging.getLogger(__name__)


class Metrics:
    """Writes each logged step once, whatever happened before.

    Lines of steps that a resumed run will do again are taken out of metrics.jsonl when it opens.
    """

    def __init__(
        self,
        run: Path,
        first_step: int,
        num_steps: int,
        steps_per_epoch: int,
        console: Console,
        terms: Mapping[str, Term],
        wandb_project: str = "",
    ) -> None:
        self._elapsed_before_s = cut_behind(run, first_step)
        self._path = run / METRICS_FILE
        self._file = self._path.open("ab", buffering=0)  # what fails to be written is not tried again when it is closed
        self._sinks = [*_tensorboard(run, first_step), *_wandb(run, wandb_project)]
        self._line = ProgressLine(first_step, num_steps, steps_per_epoch, console, terms)
        self._steps_per_epoch = steps_per_epoch
        self._start = time.monotonic()

    def log(self, step: int, learning_rate: float, terms: dict[str, float], timing: dict[str, float]) -> None:
        """Write one line for a step; `timing` has what is known of `SPEED`, at least its first two."""
        numbers = {
            "epoch": step // self._steps_per_epoch,
            "learning_rate": learning_rate,
            **terms,
            **timing,
            "elapsed_s": self._elapsed_before_s + time.monotonic() - self._start,
        }
        line = json.dumps({"step": step, **numbers}).encode() + b"\n"
        with room_for(self._path, len(line)):
            unwritten = memoryview(line)
            while unwritten:
                unwritten = unwritten[self._file.write(unwritten) :]
        self._pass_on(numbers, step)
        self._line.show(step, terms, timing)

    def _pass_on(self, numbers: dict[str, float], step: int) -> None:
        """Tell the sinks; one that fails is told no more: metrics.jsonl has everything, and the run goes on."""
        for sink in self._sinks[:]:
            try:
                sink.write(numbers, step)
            except OSError as error:
                log.warning("nothing more is written to %s: %s", sink.name, error)
                self._sinks.remove(sink)

    def advance(self, step: int) -> None:
        """Move the bar on the terminal; called after every step, logged or not."""
        self._line.advance(step)

    def close(self) -> None:
        """Finish the line on the terminal and flush the files."""
        self._line.close()
        self._file.close()
        for sink in self._sinks:
            with suppress(OSError):  # it has been said, or it was the last line
                sink.close()


class ProgressLine:
    """A progress bar on a terminal, plain lines elsewhere."""

    def __init__(
        self,
        first_step: int,
        num_steps: int,
        steps_per_epoch: int,
        console: Console,
        terms: Mapping[str, Term],
    ) -> None:
        self._terms = terms
        self._first_step, self._num_steps, self._steps_per_epoch = first_step, num_steps, steps_per_epoch
        self._console = console
        self._start = time.monotonic()
        self._bar: Progress | None = None
        if console.is_terminal:
            self._bar = Progress(
                BarColumn(BAR_COLUMNS),
                TextColumn("{task.percentage:3.0f}%", style="bold", markup=False),
                TextColumn("{task.description}", markup=False),
                console=console,
                transient=True,
            )
            self._task = self._bar.add_task("starting", total=num_steps, completed=first_step)
            self._bar.start()

    def show(self, step: int, terms: dict[str, float], timing: dict[str, float]) -> None:
        """Say where the run is, what the terms are, how fast it goes and when it will be done."""
        rate = (step + 1 - self._first_step) / (time.monotonic() - self._start)
        eta = timedelta(seconds=round((self._num_steps - step - 1) / rate))
        epochs = -(-self._num_steps // self._steps_per_epoch)
        loss, *others = [*self._said(terms), ""]
        where = f"epoch {step // self._steps_per_epoch + 1}/{epochs}"
        steps = f"step {step + 1}/{self._num_steps}"
        speed, wait = f"{timing['images_per_s']:,.0f} img/s", f"wait {timing['data_wait_share']:.0%}"
        left, online = f"ETA {eta}", _accuracies(terms)
        if self._bar is None:
            parts = [where, steps, loss, *others, *online, speed, wait, *_pace(timing), left]
            self._console.print("  ".join(filter(None, parts)), highlight=False, soft_wrap=True)
        else:
            width = self._console.width - BAR_COLUMNS - len(" 100% ")
            text = fitted([where, left, loss, *online, speed, wait, *others, steps, *_pace(timing)], width)
            self._bar.update(self._task, description=text, completed=step + 1)

    def _said(self, values: dict[str, float]) -> list[str]:
        """The method's terms that have a short name."""
        shown = [(term, values[name]) for name, term in self._terms.items() if term.short and name in values]
        return [f"{term.short} {value:.{term.decimals}f}" for term, value in shown]

    def advance(self, step: int) -> None:
        """Say that a step is done."""
        if self._bar is not None:
            self._bar.update(self._task, completed=step + 1)

    def close(self) -> None:
        """Give the terminal back."""
        if self._bar is not None:
            self._bar.stop()


def fitted(parts: Sequence[str], width: int) -> str:
    """As many of the parts, the most important first, as stand on one line of so many columns."""
    text = ""
    for part in filter(None, parts):
        longer = f"{text}  {part}" if text else part
        if len(longer) > width:
            break
        text = longer
    return text


def _accuracies(terms: dict[str, float]) -> list[str]:
    """What was measured online at this step, if anything."""
    names = {"online_top1": "online", "knn_top1": "k-NN"}
    return [f"{name} {terms[field]:.2f} %" for field, name in names.items() if field in terms]


def _pace(timing: dict[str, float]) -> list[str]:
    """Median and 95th percentile of the steps' duration, and MFU, as far as they are known."""
    steps = [timing[name] for name in ("step_ms_p50", "step_ms_p95") if name in timing]
    pace = [f"step {' to '.join(f'{ms:,.0f}' for ms in steps)} ms"] if steps else []
    return pace + ([f"MFU {timing['mfu']:.0%}"] if "mfu" in timing else [])


@dataclass(frozen=True)
class Sink:
    """Where the same numbers go beside metrics.jsonl."""

    name: str
    write: Callable[[dict[str, float], int], None]
    close: Callable[[], None]


def _tensorboard(run: Path, first_step: int) -> list[Sink]:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:  # the extra `tensorboard` is not installed
        return []
    writer = SummaryWriter(str(run / "tensorboard"), purge_step=first_step)

    def write(numbers: dict[str, float], step: int) -> None:
        for name, value in numbers.items():
            writer.add_scalar(name, value, step)

    return [Sink("TensorBoard's files", write, writer.close)]


def _wandb(run: Path, project: str) -> list[Sink]:
    if not project:
        return []
    try:
        import wandb
    except ImportError as error:
        raise ValueError(f"wandb_project is {project!r}, but wandb is missing: pip install -e '.[wandb]'") from error
    session = wandb.init(project=project, id=run.name, name=run.name, dir=str(run), resume="allow")

    def write(numbers: dict[str, float], step: int) -> None:
        session.log(numbers, step=step)

    return [Sink("Weights & Biases", write, lambda: None)]  # wandb ends its session itself, with the process
