"""Every drill, and the table that docs/reliability.md holds: `make drills`, under 20 minutes on two cores.

One after another, nothing beside it. What was lost is said at once, and ends the program with exit code 1; so does a
family that could not be tried.
"""

from __future__ import annotations

import os
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from rich.console import Console

if __name__ == "__main__":  # the tree that this file stands in, whatever is installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from drills import clusters, data, documents, files, kills, processes, values
from drills.digits_runs import DigitsRuns
from drills.tally import Drill, Tally, carry_out, table
from slurm.devcluster.daemons import DevCluster, missing_programs

LOCAL = {
    family.__name__.rpartition(".")[2]: family.drills for family in (kills, values, processes, files, data, documents)
}
CLUSTER = "clusters"


@dataclass(frozen=True)
class All:
    """Break the suite in every way, and count what is lost."""

    only: tuple[str, ...] = ()
    """Families to carry out: kills, values, processes, files, data, documents, clusters; all if none is named."""
    tries: int = 0
    """Tries of each drill; 0 for its own number."""


def main(arguments: Sequence[str]) -> int:
    """Carry them out and print the table; the exit code is 1 where something was lost, or not tried."""
    options = tyro.cli(All, args=arguments)
    families = options.only or (*LOCAL, CLUSTER)
    if unknown := set(families) - {*LOCAL, CLUSTER}:
        raise SystemExit(f"only is {', '.join(sorted(unknown))}, allowed: {', '.join((*LOCAL, CLUSTER))}")
    console, tallies = Console(), list[Tally]()
    untried = [f"clusters ({', '.join(missing_programs())} missing)"] if missing_programs() else []
    with tempfile.TemporaryDirectory(prefix="drills-") as name:
        folder = Path(name)
        runs = DigitsRuns(folder)
        for family in [family for family in families if family in LOCAL]:
            tallies += _carry_out(LOCAL[family](runs), folder / family, console, options.tries)
        if CLUSTER in families and not untried:
            cluster = DevCluster(folder / "slurm")
            try:
                cluster.up(4, 2)
                os.environ |= cluster.environment
                tallies += _carry_out(clusters.drills(cluster), folder / CLUSTER, console, options.tries)
            finally:
                cluster.down()
    console.print(f"\n{_facts()}", highlight=False)
    console.print(table(tallies))
    if CLUSTER in families and untried:
        console.print(f"not tried: {untried[0]}; get them with  make cluster-packages", highlight=False)
        return 1
    return int(any(tally.losses for tally in tallies))


def _carry_out(drills: Sequence[Drill], folder: Path, console: Console, tries: int) -> list[Tally]:
    return [carry_out(drill, folder, console, tries) for drill in drills]


def _facts() -> str:
    """What the numbers depend on."""
    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    return f"{time.strftime('%Y-%m-%d')}, {os.cpu_count()} cores, {versions}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
