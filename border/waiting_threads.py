"""How the threads of torch's operations on a CPU wait for each other: briefly with their core busy, then asleep.

libgomp's threads keep their cores busy for milliseconds, and one that comes late because another process, or a decoding
thread, has its core is waited for by a core that does nothing, after every operation. It shortens that by itself only
where it is told of more threads than cores; what it does then is asked for here. Nothing is computed differently.
"""

from __future__ import annotations

import os

SPINS = "1000"
"""libgomp's own number where it knows of more threads than cores (libgomp, env.c: initialize_env)."""


def wait_asleep() -> None:
    """To be called before torch is loaded; what the user has chosen stays."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
