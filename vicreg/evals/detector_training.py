"""Fine-tuning a detector: all of it learns, stops and goes on to the same bits, on any number of ranks.

Stands apart from detection.py because it needs torchvision, which takes long to import: a plan needs settings alone.
"""

from __future__ import annotations

import logging
import math
from contextlib import closing
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from vicreg.config import require
from vicreg.detection.detector import Detector
from vicreg.detection.scenes import SceneLoader, Scenes, as_input
from vicreg.detection.settings import Settings
from vicreg.evals.features import Splits
from vicreg.evals.work import Work
from vicreg.ranks import distributed
from vicreg.ranks.gradient_sum import GradientSum
from vicreg.ranks.sync_batch_norm import synchronise

log = logging.getLogger(__name__)

LOOK_EVERY = 20  # steps after which the loss is looked at, and the state saved if it is time
SAY_EVERY = 10  # times in all


class DetectorTraining:
    """The detector, its optimizer, and how far they are."""

    def __init__(self, encoder: nn.Module, splits: Splits, config: Settings) -> None:
        self._splits, self._config = splits, config
        self.loader = SceneLoader(
            splits.data,
            splits.beton("train"),
            config,
            rank=distributed.rank(),
            world_size=distributed.world_size(),
            workers=splits.workers,
            pinned=splits.device.type == "cuda",
        )
        self.model = Detector(encoder, splits.num_classes, config).to(splits.device)
        self.model = self.model.to(memory_format=torch.channels_last).train()
        synchronise(self.model, splits.device, uneven=True)
        norms = [p for module in self.model.modules() if isinstance(module, _BatchNorm) for p in module.parameters()]
        of_norms = set(norms)
        others = [p for p in self.model.parameters() if p.requires_grad and p not in of_norms]
        groups = [{"params": others, "weight_decay": config.weight_decay}, {"params": norms, "weight_decay": 0.0}]
        self._optimizer = torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum)
        # Not while the backward pass goes on: which rank has which gradients first depends on what its images show.
        self._gradients = GradientSum(self.model, overlaps=False)
        self._step = 0
        self._losses = torch.zeros(-(-config.steps // self.loader.per_epoch), dtype=torch.float64, device=splits.device)

    @property
    def curve(self) -> Tensor:
        """The mean loss of each pass over the training images, the last of which may be short."""
        ends = torch.arange(1, len(self._losses) + 1) * self.loader.per_epoch
        counts = ends.clamp_max(self._config.steps) - (ends - self.loader.per_epoch)
        return self._losses.cpu() / counts

    def run(self, work: Work) -> None:
        """All steps, from the state that `work` has, and then the statistics to measure with."""
        config = self._config
        if before := work.load():
            self._load(before)
        if self._step < config.steps:
            with closing(self.loader.batches(self._step, config.steps)) as batches:
                for scenes in batches:
                    self.learn(scenes)
                    work.beat(self._step, config.steps)
                    if self._step % LOOK_EVERY == 0 or self._step == config.steps:
                        self._look()
                        work.save_if_due(self._step, self.state)
                    if self._step < config.steps:
                        work.leave_if_asked(self._step, self.state)
            work.save(self._step, self.state())  # measuring takes minutes, and keeps no state of its own
        self._measure_statistics(work)

    def learn(self, scenes: Scenes) -> None:
        """One step on this rank's part of a global batch."""
        rate = self._config.lr * self._config.rate(self._step)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._gradients.clear()
        loss = self._loss(scenes, self._step)
        loss.backward()
        self._gradients.finish()
        self._optimizer.step()
        self._losses[self._step // self.loader.per_epoch] += distributed.sum_over_ranks(loss.detach())
        self._step += 1

    def _loss(self, scenes: Scenes, step: int) -> Tensor:
        """This rank's part of the loss of a global batch."""
        device = self._splits.device
        torch.manual_seed(((self._config.seed * 1_000_003 + step) * 65_537 + distributed.rank()) % 2**63)  # dropout
        self.model.set_keys(step, scenes.samples)
        scenes = scenes.to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            losses = self.model(as_input(scenes, self._splits.normalise), scenes.sizes, scenes.targets)
        total: Tensor = sum(losses.values())
        return total

    def _look(self) -> None:
        """Say how it goes, some times in all; ValueError when the loss is no longer finite."""
        epoch = (self._step - 1) // self.loader.per_epoch
        loss = float(self._losses[epoch])
        allowed = f"a smaller rate: it diverged by step {self._step}"
        require(math.isfinite(loss), "lr", self._config.lr, allowed)
        part = max(LOOK_EVERY, self._config.steps // SAY_EVERY)
        if self._step % part < LOOK_EVERY:
            mean = loss / (self._step - epoch * self.loader.per_epoch)
            log.info("detection: step %d/%d, loss %.3f", self._step, self._config.steps, mean)

    @torch.no_grad()
    def _measure_statistics(self, work: Work) -> None:
        """Let batch norm have the mean statistics of some batches of the finished detector ("precise BN")."""
        norms = [module for module in self.model.modules() if isinstance(module, _BatchNorm)]
        steps, num = self._config.steps, self._config.precise_batches
        if not norms or not num:
            return
        with closing(self.loader.batches(steps, steps + num)) as batches:
            for number, scenes in enumerate(batches):
                for norm in norms:
                    norm.momentum = 1 / (number + 1)  # the mean of all so far
                self._loss(scenes, steps + number)
                self._splits.heard()
                work.leave_if_asked(self._step, self.state)

    def state(self) -> dict[str, Any]:
        """All that going on needs."""
        model, optimizer = self.model.state_dict(), self._optimizer.state_dict()
        return {"step": self._step, "model": model, "optimizer": optimizer, "losses": self._losses.cpu()}

    def _load(self, state: dict[str, Any]) -> None:
        self._step = int(state["step"])
        self.model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._losses.copy_(state["losses"])
