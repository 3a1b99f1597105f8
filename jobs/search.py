"""Search: the images of a gallery that a run's encoder finds nearest to others, printed and as a page of pictures."""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":  # the tree that this file stands in, whatever is installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from border.terminal import typed
from disk.closed_pipe import quietly
from jobs.options.search import parse
from jobs.planning.cli import user_errors


def main(arguments: list[str]) -> int:
    """Read the options and carry them out; returns the exit code."""
    with user_errors("stopped; the same command goes on from there"):
        command = parse(arguments)
        from jobs.execution import search  # help and wrong options come at once, torch takes two seconds

        return search.carry_out(command)


def script() -> int:
    """The command as it is typed."""
    return quietly(lambda: typed(main))


if __name__ == "__main__":
    sys.exit(script())
