"""Speed of a run from lap to lap, and how the ranks' own work compares: a slow one makes all others wait for it."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from vicreg.config import PretrainConfig
from vicreg.cost.flops import peak_flops, step_flops
from vicreg.method import TrainingData
from vicreg.ranks import distributed
from vicreg.ranks.distributed import Placement
from vicreg.ranks.waiting import waited_s

T = TypeVar("T")


class Clock:
    """Speed, waiting for data, and how long steps take, from lap to lap."""

    def __init__(
        self, config: PretrainConfig, data: TrainingData, step: int, placement: Placement, device: torch.device
    ) -> None:
        self._global_batch = config.train.global_batch
        self._flops = step_flops(config, config.train.global_batch // placement.world_size, data)
        self._peak = peak_flops(device, config.train.precision)
        self._start, self._step, self._waited_s = time.monotonic(), step, 0.0
        self._steps_s: list[float] = []
        self._stopped_s = 0.0
        self._own: list[tuple[float, float, float]] = []
        self._collectives_s = 0.0
        self.view_events = _events() if device.type == "cuda" and placement.world_size > 1 else None
        """For the learner: around the making of a step's views, where there are ranks to compare."""

    @property
    def views_s(self) -> float | None:
        """How long the GPU took for the views of the last step, which must be over; None where nobody asks."""
        return self.view_events[0].elapsed_time(self.view_events[1]) / 1000 if self.view_events else None

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """What happens meanwhile does not count."""
        start, collectives_s = time.monotonic(), waited_s()
        yield
        self._stopped_s += time.monotonic() - start
        self._collectives_s += waited_s() - collectives_s

    def timed(self, batches: Iterator[T]) -> Generator[T, None, None]:
        """The same batches, with the time that each took to come and to be worked on."""
        while True:
            start = time.monotonic()
            batch = next(batches, None)
            data_s = time.monotonic() - start
            self._waited_s += data_s
            if batch is None:
                return
            self._stopped_s, self._collectives_s = 0.0, waited_s()
            yield batch
            step_s = time.monotonic() - start - self._stopped_s
            self._steps_s.append(step_s)
            self._own.append((step_s - data_s - (waited_s() - self._collectives_s), data_s, step_s))

    def lap(self, step: int) -> dict[str, float]:
        """Timing of the steps up to and including `step` since the lap before; the last step is still under way."""
        now = time.monotonic()
        seconds, steps = now - self._start - self._stopped_s, step + 1 - self._step
        timing = {
            "images_per_s": round(steps * self._global_batch / seconds, 1),
            "data_wait_share": round(self._waited_s / seconds, 4),
            "model_tflops": round(self._flops * steps / seconds / 1e12, 4),
        }
        if self._peak:
            timing["mfu"] = round(self._flops * steps / seconds / self._peak, 4)
        if self._steps_s:
            for percent in (50, 95):
                timing[f"step_ms_p{percent}"] = round(1000 * float(np.percentile(self._steps_s, percent)), 2)
        self._start, self._step, self._waited_s = now, step + 1, 0.0
        self._steps_s.clear()
        return timing

    def compare(self, views_s: float | None) -> dict[str, float]:
        """How the ranks' own time for a step compares, since the last time; nothing where there is nothing to compare.

        All ranks call it together. `views_s`: where a GPU works while the host goes on, how long it took for the views
        of a batch, for which it waits for nobody.
        """
        if not self._own or distributed.world_size() == 1:
            return {}
        own = torch.tensor([*np.mean(self._own, axis=0), views_s or 0.0], dtype=torch.float64)
        self._own.clear()
        work, data, step, views = distributed.gather_rows(own[None]).numpy().T
        return slowest_of(work if views_s is None else float(np.median(step)) * views / np.median(views), data)


def _events() -> tuple[torch.cuda.Event, torch.cuda.Event]:
    return torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)


def slowest_of(work_s: NDArray[np.float64], data_s: NDArray[np.float64]) -> dict[str, float]:
    """Median and worst of the ranks' time for a step without waiting for each other, and which rank is the worst.

    `work_s` and `data_s` (ranks,): a step's own work, and its waiting for data.
    """
    each = work_s + data_s
    worst, median = int(each.argmax()), float(np.median(each))
    return {
        "rank_ms_median": round(1000 * median, 2),
        "rank_ms_worst": round(1000 * float(each[worst]), 2),
        "slowest_rank": worst,
        "slowest_factor": round(float(each[worst]) / median, 3),
        "slowest_wait_share": round(float(data_s[worst] / each[worst]), 3),
    }
