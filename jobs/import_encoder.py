"""Import: an encoder that was trained elsewhere, as a run folder that jobs/eval_all.py measures like any other."""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":  # the tree that this file stands in, whatever is installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from border.terminal import typed
from disk.closed_pipe import quietly
from jobs.options.import_encoder import parse
from jobs.planning.cli import user_errors


def main(arguments: list[str]) -> int:
    """Read the options and carry them out; returns the exit code."""
    with user_errors():
        command = parse(arguments)
        from jobs.execution import import_encoder  # help and wrong options come at once, torch takes two seconds

        return import_encoder.carry_out(command)


def script() -> int:
    """The command as it is typed."""
    return quietly(lambda: typed(main))


if __name__ == "__main__":
    sys.exit(script())
