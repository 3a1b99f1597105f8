"""What a job really allocates, as torch's profiler sees it: the inside of operations too."""

from __future__ import annotations

import itertools
from collections.abc import Callable

from torch.profiler import ProfilerActivity, profile


def peak_bytes(job: Callable[[], object]) -> int:
    """The most that is allocated at one time while a job runs, beyond what was before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        result = job()
    events = list(profiler.profiler.kineto_results.experimental_event_tree())
    sizes = []
    while events:
        event = events.pop()
        events += event.children
        if event.name == "[memory]":
            sizes.append((event.start_time_ns, event.extra_fields.alloc_size))
    del result
    return max(itertools.accumulate(size for _, size in sorted(sizes)))
