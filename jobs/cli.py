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
EXPECTED_ERRORS = (ValueError, OSError, JobFailed, RendezvousError, TrainingDiverged)


@contextmanager
def user_errors() -> Iterator[None]:
    """Turn an error that a user can cause into one clear message and exit code 1."""
    try:
        yield
    except EXPECTED_ERRORS as error:
        if os.environ.get(TRACEBACK_VARIABLE):
            raise
        Console(stderr=True, soft_wrap=True).print(f"[bold red]error:[/] {escape(str(error))}", highlight=False)
        sys.exit(1)


def configure_logging(console: Console, log_file: Path) -> None:
    """Warnings and information to the console and, with times, to a file of this rank's own."""
    log_file.parent.mkdir(parents=True, exist_ok=True)
    to_file = logging.FileHandler(log_file)
    to_file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    to_console = RichHandler(console=console, show_time=False, show_path=False, markup=False)
    logging.basicConfig(level=logging.INFO, handlers=[to_console, to_file], force=True)
    logging.getLogger("numba").setLevel(logging.WARNING)
