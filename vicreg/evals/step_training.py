"""What an evaluation that learns in steps has in common: the steps, their loss, and a state to go on from to the bit.

Gradients are those of the global batch: a loss is this rank's part of it, and the parts are summed over the ranks.
"""

from __future__ import annotations

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Generator
from contextlib import closing
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from vicreg.config import require
from vicreg.evals.work import Work
from vicreg.ranks import distributed
from vicreg.ranks.gradient_sum import GradientSum

log = logging.getLogger(__name__)

LOOK_EVERY = 20  # steps after which the loss is looked at, and the state saved if it is time
SAY_EVERY = 10  # times in all

Batch = TypeVar("Batch")


class Schedule(Protocol):
    """How long is learned, and how fast."""

    @property
    def steps(self) -> int:
        """Steps in all."""

    @property
    def lr(self) -> float:
        """The learning rate."""

    def rate(self, step: int) -> float:
        """Share of it at a step."""


class StepTraining(ABC, Generic[Batch]):
    """A module that learns, its optimizer, and how far they are."""

    def __init__(
        self,
        said: str,
        learns: nn.Module,
        optimizer: Optimizer,
        gradients: GradientSum,
        schedule: Schedule,
        per_epoch: int,
        device: torch.device,
    ) -> None:
        """said: what the log calls it. learns: all that changes. per_epoch: steps of a pass over the images."""
        self._said, self._learns, self.optimizer, self._gradients = said, learns, optimizer, gradients
        self._schedule, self._per_epoch, self._step = schedule, per_epoch, 0
        self._losses = torch.zeros(-(-schedule.steps // per_epoch), dtype=torch.float64, device=device)

    @abstractmethod
    def batches(self, first_step: int, end_step: int) -> Generator[Batch, None, None]:
        """This rank's part of the batch of each of these steps, a function of the step alone."""

    @abstractmethod
    def loss(self, batch: Batch, step: int) -> Tensor:
        """This rank's part of the loss of a global batch."""

    @property
    def curve(self) -> list[float]:
        """The mean loss of each pass over the training images, the last of which may be short."""
        ends = torch.arange(1, len(self._losses) + 1) * self._per_epoch
        counts = ends.clamp_max(self._schedule.steps) - (ends - self._per_epoch)
        found: list[float] = (self._losses.cpu() / counts).tolist()
        return found

    def run(self, work: Work) -> None:
        """All steps, from the state that `work` has."""
        if before := work.load():
            self._load(before)
        steps = self._schedule.steps
        if self._step == steps:
            return
        with closing(self.batches(self._step, steps)) as batches:
            for batch in batches:
                self.learn(batch)
                work.beat(self._step, steps)
                if self._step % LOOK_EVERY == 0 or self._step == steps:
                    self._look()
                    work.save_if_due(self._step, self.state)
                if self._step < steps:
                    work.leave_if_asked(self._step, self.state)
        work.save(self._step, self.state())  # measuring takes minutes, and keeps no state of its own

    def learn(self, batch: Batch) -> None:
        """One step on this rank's part of a global batch."""
        rate = self._schedule.lr * self._schedule.rate(self._step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self._gradients.clear()
        loss = self.loss(batch, self._step)
        loss.backward()
        self._gradients.finish()
        self.optimizer.step()
        self._losses[self._step // self._per_epoch] += distributed.sum_over_ranks(loss.detach())
        self._step += 1

    def _look(self) -> None:
        """Say how it goes, some times in all; ValueError when the loss is no longer finite."""
        steps, epoch = self._schedule.steps, (self._step - 1) // self._per_epoch
        loss = float(self._losses[epoch])
        require(math.isfinite(loss), "lr", self._schedule.lr, f"a smaller rate: it diverged by step {self._step}")
        if self._step % max(LOOK_EVERY, steps // SAY_EVERY) < LOOK_EVERY:
            mean = loss / (self._step - epoch * self._per_epoch)
            log.info("%s: step %d/%d, loss %.3f", self._said, self._step, steps, mean)

    def state(self) -> dict[str, Any]:
        """All that going on needs."""
        model, optimizer = self._learns.state_dict(), self.optimizer.state_dict()
        return {"step": self._step, "model": model, "optimizer": optimizer, "losses": self._losses.cpu()}

    def _load(self, state: dict[str, Any]) -> None:
        self._step = int(state["step"])
        self._learns.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self._losses.copy_(state["losses"])
