"""Take the devcluster down: jobs, daemons, folder; nothing of it runs afterwards."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

if __name__ == "__main__":  # the tree that this file stands in, whatever is installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from border.terminal import complain, say
from disk.closed_pipe import quietly
from slurm.devcluster.daemons import DevCluster, DevClusterError, default_folder


def main(arguments: list[str]) -> int:
    """Parse, end everything; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--folder", type=Path, default=default_folder(), help="where everything of the cluster lies")
    folder = parser.parse_args(arguments).folder.absolute()
    if not (folder / "devcluster.json").exists():
        say(f"no devcluster in {folder}")
        return 0
    try:
        DevCluster.open(folder).down()
    except DevClusterError as error:
        complain(f"error: {error}")
        return 1
    say(f"down, and {folder} is removed")
    return 0


if __name__ == "__main__":
    sys.exit(quietly(lambda: main(sys.argv[1:])))
