"""What ranks find out about each other when they have met: that sums are right on their devices, and clocks agree."""

from __future__ import annotations

import time

import torch

from vicreg.ranks import distributed
from vicreg.ranks.distributed import Placement
from vicreg.ranks.rendezvous import RendezvousError

MAX_CLOCK_OFFSET_S = 60.0


def require_agreement(placement: Placement) -> None:
    """RendezvousError where a small sum over the ranks is wrong, or where this rank's clock is off; all call it."""
    ranks = distributed.world_size()
    numbers = torch.arange(1, 5, device=distributed.device_for(placement)) * (distributed.rank() + 1)
    expected = [number * ranks * (ranks + 1) // 2 for number in range(1, 5)]
    found = distributed.sum_over_ranks(numbers).tolist()
    name = placement.name(placement.rank)
    if found != expected:
        raise RendezvousError(f"rank {name}: the sum over {ranks} ranks is {found}, right is {expected}")
    distributed.barrier()
    clocks = distributed.gather_rows(torch.tensor([time.time()], dtype=torch.float64))
    offset_s = float(clocks[distributed.rank()] - clocks.median())
    if abs(offset_s) > MAX_CLOCK_OFFSET_S:
        raise RendezvousError(
            f"rank {name}: its clock is {offset_s:+.0f} s off that of most ranks, allowed: {MAX_CLOCK_OFFSET_S:.0f} s; "
            "set it by a time server (chronyd, ntpd)"
        )
