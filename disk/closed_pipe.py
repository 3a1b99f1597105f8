"""Output whose reader has seen enough (`| head`): the program ends without a word, as every other does."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable


def quietly(run: Callable[[], int]) -> int:
    """The exit code of `run`; that of SIGPIPE, without a word, when whoever reads the output has seen enough."""
    try:
        try:
            return run()
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is flushed when the process ends
        return 128 + signal.SIGPIPE
