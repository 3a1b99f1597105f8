"""What each exact form of a loss's large products costs a rank, and which is the cheapest: pure arithmetic.

The choice depends on sizes and on stated speeds, never on a measurement while running: it may change the last bits of
a result, and the same configuration on the same cluster must give the same bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

BLOCK_ENTRIES = 1 << 22
"""Entries of K or C that are made at a time: 16 MB, and twice as much for their norm."""
NUM_VIEWS = 2
"""Branches whose embeddings these losses compare."""


@dataclass(frozen=True)
class Speeds:
    """What a rank can do, for predictions; measure yours with `benchmarks/step.py`."""

    tflops: float
    """Sustained arithmetic of matrix products and convolutions at the run's precision, in 10^12 operations a second."""
    link_gb_s: float
    """What one rank can send to other nodes while all do, in GB/s."""
    latency_us: float
    """Time of a collective of few bytes, for each doubling of the ranks."""
    memory_gb_s: float
    """What one rank can read and write in its memory, in GB/s."""


DEFAULT_SPEEDS = {"cuda": Speeds(75, 25, 10, 2000), "cpu": Speeds(0.1, 1, 100, 10)}
"""Assumed where a profile says nothing: GPUs that train a ResNet-50 on 3,000 images/s (24.5 GFLOP each; an H100's pace
in bf16) with 200 Gbit/s each; a few CPU cores on 10 Gbit/s."""
NODE_LINK_GB_S = {"cuda": 200.0, "cpu": 2.0}
"""Assumed within a node: NVLink; memory."""


def known_speeds(
    kind: str, one_node: bool, *, tflops: float = 0, link_gb_s: float = 0, latency_us: float = 0
) -> Speeds:
    """What is stated, and usual speeds of GPUs ("cuda") or CPUs ("cpu") for what is 0."""
    usual = DEFAULT_SPEEDS[kind]
    link = link_gb_s or (NODE_LINK_GB_S[kind] if one_node else usual.link_gb_s)
    return Speeds(tflops or usual.tflops, link, latency_us or usual.latency_us, usual.memory_gb_s)


@dataclass(frozen=True)
class FormCost:
    """What one form takes on one rank in one step, for both views together."""

    flops: float
    """Floating-point operations, multiplication and addition counted apart."""
    memory_bytes: float
    """Held at the most beside the embeddings, their gradients and the centred rows of one view."""
    sent_bytes: float
    """Sent by the rank, with ring and pairwise algorithms."""
    num_collectives: int

    def seconds(self, speeds: Speeds, ranks: int) -> float:
        """Expected duration."""
        waits = self.num_collectives * speeds.latency_us * 1e-6 * (ranks - 1).bit_length()
        return self.flops / (speeds.tflops * 1e12) + self.sent_bytes / (speeds.link_gb_s * 1e9) + waits

    def followed_by(self, other: FormCost) -> FormCost:
        """Both, one after the other."""
        return FormCost(
            self.flops + other.flops,
            max(self.memory_bytes, other.memory_bytes),
            self.sent_bytes + other.sent_bytes,
            self.num_collectives + other.num_collectives,
        )


def ring_sum_bytes(nbytes: float, ranks: int) -> float:
    """What each rank sends when a ring sums a tensor: its part once for the sum and once for the result."""
    return 2 * (ranks - 1) / ranks * nbytes


def block_of(side: int) -> int:
    """Rows of K, or columns of C, of `side` entries that are made at a time."""
    return max(1, BLOCK_ENTRIES // side)


def covariance_costs(total: int, dims: int, ranks: int, size: int = 4) -> dict[str, FormCost]:
    """All forms of the covariance term for N x D embeddings of `size` bytes an entry, N / ranks rows on each rank."""
    rows, others = total / ranks, (ranks - 1) / ranks
    width = -(-dims // ranks)  # columns of a rank, the last of them perhaps padding
    block = min(block_of(dims), dims)
    part = min(block_of(total), rows) * total
    gathered = total * dims * size if ranks > 1 else 0
    exchanged = rows * width * ranks * size
    return {
        "samples": FormCost(
            flops=NUM_VIEWS * 4 * rows * total * dims,
            memory_bytes=max(2 * gathered, gathered + part * (size + 8)),
            sent_bytes=NUM_VIEWS * (others * total * dims * size + ring_sum_bytes(8, ranks)),
            num_collectives=NUM_VIEWS * 2,
        ),
        "dimensions": FormCost(
            flops=NUM_VIEWS * 4 * rows * dims * dims,
            memory_bytes=dims * block * (size + 8),
            sent_bytes=NUM_VIEWS * 2 * others * dims * dims * size,
            num_collectives=NUM_VIEWS * -(-dims // block),
        ),
        "features": FormCost(
            flops=NUM_VIEWS * 4 * total * total * width,
            memory_bytes=total * total * size
            + (max(8 * total * total + exchanged, 3 * exchanged) if ranks > 1 else max(8 * total * total, exchanged)),
            sent_bytes=NUM_VIEWS * others * 2 * (exchanged + total * total * size),
            num_collectives=NUM_VIEWS * 3,
        ),
    }


def correlation_costs(total: int, dims: int, ranks: int, size: int = 4) -> dict[str, FormCost]:
    """The same of the cross-correlation of two branches: products of both, where covariances are those of each."""
    costs = covariance_costs(total, dims, ranks, size)
    rows, block = total / ranks, min(block_of(dims), dims)
    gathered = total * dims * size if ranks > 1 else 0
    exchanged = total * -(-dims // ranks) * size if ranks > 1 else 0
    grams = 2 * total * total * size
    return {
        "samples": replace(costs["samples"], memory_bytes=costs["samples"].memory_bytes + 2 * gathered),
        "dimensions": FormCost(
            flops=6 * rows * dims * dims,
            memory_bytes=dims * block * (size + 8),
            sent_bytes=ring_sum_bytes(dims * dims * size, ranks),
            num_collectives=-(-dims // block),
        ),
        "features": replace(costs["features"], memory_bytes=grams + 8 * total * total + 4 * exchanged),
    }


def cheapest(costs: Mapping[str, FormCost], ranks: int, speeds: Speeds) -> str:
    """The form that is expected to take the least time; the first of equals, which is the simpler."""
    return min(costs, key=lambda form: costs[form].seconds(speeds, ranks))
