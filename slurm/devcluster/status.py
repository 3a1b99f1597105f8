"""Say what of the devcluster runs: every daemon, and what SLURM says of its nodes and jobs."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

if __name__ == "__main__":  # the tree that this file stands in, whatever is installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from border.terminal import complain, say
from border.text import suite_command
from disk.closed_pipe import quietly
from slurm.devcluster.daemons import DevCluster, DevClusterError, default_folder


def main(arguments: list[str]) -> int:
    """Parse, look, print; the exit code is 0 when everything runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--folder", type=Path, default=default_folder(), help="where everything of the cluster lies")
    folder = parser.parse_args(arguments).folder.absolute()
    try:
        cluster = DevCluster.open(folder)
    except DevClusterError as error:
        complain(f"error: {error}")
        return 1
    if not cluster.num_nodes:
        up = suite_command("slurm/devcluster/up.py", "--nodes", 4, "--gpus", 2, "--folder", folder)
        say(f"no devcluster in {folder}; start one with  {up}")
        return 1
    running = cluster.running()
    for name, lives in running.items():
        say(f"{name:10s} {'runs' if lives else 'DEAD'}   {folder}/log/{name}.out")
    if running["slurmctld"]:
        for line in cluster.call("sinfo", check=False).splitlines():
            say(line)
        say()
        for line in cluster.call("squeue", check=False).splitlines():
            say(line)
    return 0 if all(running.values()) else 1


if __name__ == "__main__":
    sys.exit(quietly(lambda: main(sys.argv[1:])))
