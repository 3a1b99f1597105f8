"""Bring up a real SLURM cluster on this machine: python slurm/devcluster/up.py --nodes 4 --gpus 2."""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from pathlib import Path

if __name__ == "__main__":  # the tree that this file stands in, whatever is installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from border.terminal import complain, say
from border.text import suite_command
from disk.closed_pipe import quietly
from slurm.devcluster.daemons import DevCluster, DevClusterError, default_folder


def main(arguments: list[str]) -> int:
    """Parse, start, say how to use it; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--nodes", type=int, default=4, help="nodes, each a slurmd of its own")
    parser.add_argument("--gpus", type=int, default=2, help="pretended GPUs per node")
    parser.add_argument("--folder", type=Path, default=default_folder(), help="where everything of the cluster lies")
    chosen = parser.parse_args(arguments)
    start = time.monotonic()
    try:
        cluster = DevCluster.open(chosen.folder.absolute())
        cluster.up(chosen.nodes, chosen.gpus)
    except DevClusterError as error:
        complain(f"error: {error}")
        return 1
    say(f"{chosen.nodes} nodes with {chosen.gpus} GPUs each are up ({time.monotonic() - start:.0f} s). Use them with")
    for name, value in cluster.environment.items():
        say(f"  export {name}={shlex.quote(value)}")
    words = ("--cluster", "devcluster", "--recipe", "digits", "--nodes", 2, "--gpus", 2)
    say(f"  {suite_command('jobs/pretrain.py', *words)}")
    down = suite_command("slurm/devcluster/down.py", "--folder", cluster.folder)
    say(f"Partitions: normal, and low, which normal preempts. Take it down with  {down}")
    return 0


if __name__ == "__main__":
    sys.exit(quietly(lambda: main(sys.argv[1:])))
