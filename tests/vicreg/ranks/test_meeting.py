"""Ranks that have met find out whether sums and clocks are right, before a step is made."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.ranks import run_ranks
from vicreg.ranks import distributed
from vicreg.ranks.distributed import Placement
from vicreg.ranks.meeting import require_agreement
from vicreg.ranks.rendezvous import RendezvousError

HOSTS = ("alpha", "alpha", "beta")


def _meet(offset_s: float) -> str:
    """What the rank on beta, whose clock is so far off, has to say."""
    rank, now = distributed.rank(), time.time
    if rank == 2:
        time.time = lambda: now() + offset_s
    said = "well"
    try:
        require_agreement(Placement(rank, 3, 0, 1, hosts=HOSTS))
    except RendezvousError as error:
        said = str(error)
    if rank == 2:
        Path(HERE).write_text(said)
    distributed.barrier()
    return Path(HERE).read_text()


HERE = "said"


@pytest.mark.parametrize(
    ("offset_s", "said"),
    [
        (30.0, "well"),
        (
            -3600.0,
            "rank 2 on beta: its clock is -3600 s off that of most ranks, allowed: 60 s; set it by a time server",
        ),
    ],
)
def test_a_clock_that_is_off_is_named(
    tmp_path: Path, offset_s: float, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_ranks(_meet, 3, tmp_path, offset_s).startswith(said)
