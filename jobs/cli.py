"""What all commands share: how they say an error, where they log."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.logging import RichHandler
from rich.markup import escape

from slurm.executor import JobFailed
from vicreg.distributed import RendezvousError
from vicreg.guards import TrainingDiverged

TRACEBACK_VARIABLE = "VICREG_TRACEBACK"
CONFIG_FILE = "config.json"  # in a run folder: what was asked for, resolved
INTERRUPTED_EXIT_CODE = 130  # as shells have it: 128 + SIGINT
EXPECTED_ERRORS = (ValueError, OSError, JobFailed, RendezvousError, TrainingDiverged)


@contextmanager
def user_errors(when_interrupted: str = "") -> Iterator[None]:
    """Turn an error that a user can cause into one clear message and exit code 1; Ctrl-C into exit code 130."""
    try:
        yield
    except EXPECTED_ERRORS as error:
        if os.environ.get(TRACEBACK_VARIABLE):
            raise
        Console(stderr=True, soft_wrap=True).print(f"[bold red]error:[/] {escape(str(error))}", highlight=False)
        sys.exit(1)
    except KeyboardInterrupt:
        if when_interrupted:
            Console(soft_wrap=True).print(when_interrupted, highlight=False)
        sys.exit(INTERRUPTED_EXIT_CODE)


def configure_logging(console: Console, rank: int, folder: Path) -> None:
    """Rank 0 logs to the console and, with times, to `folder/rank_0.log`; the others' output is their log already."""
    with_times = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    handlers: list[logging.Handler] = [logging.StreamHandler()]
    if rank == 0:
        folder.mkdir(parents=True, exist_ok=True)
        handlers = [logging.FileHandler(folder / "rank_0.log")]
    for handler in handlers:
        handler.setFormatter(with_times)
    if rank == 0:
        to_console = RichHandler(console=console, show_time=False, show_path=False, show_level=False, markup=False)
        to_console.setFormatter(logging.Formatter("%(message)s"))
        handlers.append(to_console)
    logging.basicConfig(level=logging.INFO, handlers=handlers, force=True)
