"""A real SLURM cluster for the tests of this folder: four nodes with two pretended GPUs each."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from drills.cluster_runs import Runs
from slurm.devcluster.daemons import DevCluster, missing_programs

MISSING = missing_programs()
SKIPPED = f"no real SLURM to test on: {', '.join(MISSING)} not installed; get them with: make cluster-packages (root)"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of this folder need the daemons; where they are missing, say how to get them."""
    for item in items:
        if Path(__file__).parent in item.path.parents and MISSING:
            item.add_marker(pytest.mark.skip(reason=SKIPPED))


@pytest.fixture(scope="package")
def cluster() -> Iterator[DevCluster]:
    """The cluster; it is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="devcluster-test-") as folder:
        cluster = DevCluster(Path(folder) / "cluster")
        cluster.up(4, 2)
        before = os.environ.get("SLURM_CONF")
        os.environ |= cluster.environment
        yield cluster
        os.environ.pop("SLURM_CONF")
        if before:
            os.environ["SLURM_CONF"] = before
        cluster.down()


@pytest.fixture
def runs(cluster: DevCluster, tmp_path: Path) -> Iterator[Runs]:
    """What starts jobs and waits for them; nothing of a test is left in the queue."""
    yield Runs(cluster, tmp_path)
    cluster.call("scancel", "--user=" + os.environ.get("USER", "root"), check=False)
