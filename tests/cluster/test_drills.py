"""The drills on a real SLURM, once each (drills/clusters.py): what makes a day bad on a cluster loses nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from drills import clusters
from drills.cluster_runs import Runs

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("drill", clusters.ALL, ids=lambda drill: drill.__name__)
def test_nothing_is_lost_by(drill: Callable[[Runs], None], runs: Runs) -> None:
    drill(runs)
