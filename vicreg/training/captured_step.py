"""A whole step as one CUDA graph: the host says which samples and at which rates, and launches once.

For data sets that lie on a GPU whole: there a step of small images takes less than the host needs to launch its some
thousand kernels one by one. What is recorded is `Learner.take` behind `DeviceImages.batch`, nothing else: a step does
the same whether it is replayed or not. CUDA graphs want the same memory each time, no waiting, no value from the host:
rates, skipped steps and fp16's scale lie on the device for that.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator
from typing import Any

import torch
from torch import Tensor

from vicreg.data.loaders import ArrayViews, Chosen, ViewLoader
from vicreg.method import Progress
from vicreg.ranks import distributed
from vicreg.training.learner import Learner

log = logging.getLogger(__name__)

UNRECORDED_STEPS = 3
"""Taken before one is recorded: until then libraries choose algorithms, and optimizers make their state."""


Epochs = Callable[[int, int], Generator[Any, None, None]]
"""The batches of an epoch from a number on, made or not as `Take` wants them."""
Take = Callable[[Any, Progress, int], dict[str, Tensor]]
"""As `Learner.step`."""


def how_to_step(learner: Learner, loader: ViewLoader) -> tuple[Epochs, Take]:
    """Where batches come from and how a step is taken with them: recorded where that can be, else the log says why."""
    reason = reason_against(learner, loader)
    if not reason and isinstance(loader, ArrayViews):
        return loader.chosen, CapturedStep(learner).step
    if learner.device.type == "cuda":
        log.info("steps are not recorded as a CUDA graph: %s", reason)
    return loader.batches, learner.step


def reason_against(learner: Learner, loader: ViewLoader) -> str:
    """Why steps with this loader cannot be recorded; empty where they can."""
    method, train = learner.config.method.name, learner.config.train
    if not isinstance(loader, ArrayViews):
        return "data.loader is 'beton', whose photos the host decodes; allowed: 'array'"
    reasons = {
        "train.capture is 'off'": train.capture == "off",
        loader.reason_for_host: bool(loader.reason_for_host),
        "several ranks sum their gradients": distributed.world_size() > 1,
        f"{method} does something else from step to step": learner.method.follows_progress,
        "train.micro_batch draws anew for each part": bool(train.micro_batch),
        "train.precision is 'float64', whose rates the host has": learner.dtype == torch.float64,
    }
    return next((reason for reason, holds in reasons.items() if holds), "")


class CapturedStep:
    """Takes steps of a learner on batches that are not made yet. A learner that is loaded anew wants a new one."""

    def __init__(self, learner: Learner) -> None:
        self._learner = learner
        self._samples: Tensor | None = None
        self._epoch = torch.zeros((), dtype=torch.int64, device=learner.device)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._beside: torch.cuda.Stream | None = None
        self._terms: dict[str, Tensor] = {}
        self._unrecorded = UNRECORDED_STEPS if learner.device.type == "cuda" else -1  # a CPU never comes to 0

    def step(self, chosen: Chosen, progress: Progress, rank: int) -> dict[str, Tensor]:
        """As `Learner.step`; the terms it returns hold until the next."""
        self._learner.prepare(progress, rank)
        if self._samples is None:
            self._samples = torch.empty_like(chosen.on_device)
        self._samples.copy_(chosen.on_device)
        self._epoch.fill_(chosen.epoch)
        if self._unrecorded == 0 and self._graph is None:
            self._record(chosen, progress)
        if self._graph is not None:
            self._graph.replay()
            return self._terms
        if self._unrecorded < 0:
            return self._take(chosen, progress)
        self._unrecorded -= 1
        return self._take_beside(chosen, progress)

    def _take(self, chosen: Chosen, progress: Progress) -> dict[str, Tensor]:
        assert self._samples is not None
        return self._learner.take(chosen.source.batch(self._samples, self._epoch), progress)

    def _take_beside(self, chosen: Chosen, progress: Progress) -> dict[str, Tensor]:
        """On a stream of its own, as CUDA wants of what is to be recorded; memory belongs to streams, so on one."""
        if self._beside is None:
            self._beside = torch.cuda.Stream(self._learner.device)
        stream, here = self._beside, torch.cuda.current_stream(self._learner.device)
        stream.wait_stream(here)
        with torch.cuda.stream(stream):
            terms = self._take(chosen, progress)
        here.wait_stream(stream)
        return terms

    def _record(self, chosen: Chosen, progress: Progress) -> None:
        """A step without doing it. Where that fails, steps go on being taken one operation after the other."""
        graph = torch.cuda.CUDAGraph()
        self._learner.let_optimizers_be_recorded(True)
        try:
            # Leaves the stream as it was, whatever happens; other threads, such as the saver's, may go on meanwhile.
            with (
                torch.cuda.stream(torch.cuda.current_stream(self._learner.device)),
                torch.cuda.graph(graph, capture_error_mode="thread_local"),
            ):
                self._terms = self._take(chosen, progress)
        except Exception as error:  # whatever an operation, or too little memory, has against it
            log.warning("steps are not recorded as a CUDA graph: %s: %s", type(error).__name__, error)
            self._learner.let_optimizers_be_recorded(False)
            self._learner.forget_half_a_step()
            self._unrecorded = -1
            return
        self._graph = graph
        log.info("from step %d on each step is one CUDA graph", progress.step)
