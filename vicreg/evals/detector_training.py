"""Fine-tuning a detector: all of it learns, stops and goes on to the same bits, on any number of ranks.

Stands apart from detection.py because it needs torchvision, which takes long to import: a plan needs settings alone.
"""

from __future__ import annotations

import copy
from collections.abc import Generator
from contextlib import closing

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from vicreg.detection.detector import Detector
from vicreg.detection.scenes import SceneLoader, Scenes, as_input
from vicreg.detection.settings import Settings
from vicreg.evals.features import Splits
from vicreg.evals.step_training import StepTraining
from vicreg.evals.work import Work
from vicreg.ranks import distributed
from vicreg.ranks.gradient_sum import GradientSum
from vicreg.ranks.sync_batch_norm import synchronise


class DetectorTraining(StepTraining[Scenes]):
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
        self.model = Detector(copy.deepcopy(encoder), splits.num_classes, config).to(splits.device)
        self.model = self.model.to(memory_format=torch.channels_last).train()
        synchronise(self.model, splits.device, uneven=True)
        norms = [p for module in self.model.modules() if isinstance(module, _BatchNorm) for p in module.parameters()]
        of_norms = set(norms)
        others = [p for p in self.model.parameters() if p.requires_grad and p not in of_norms]
        groups = [{"params": others, "weight_decay": config.weight_decay}, {"params": norms, "weight_decay": 0.0}]
        optimizer = torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum)
        # Not while the backward pass goes on: which rank has which gradients first depends on what its images show.
        gradients = GradientSum(self.model, overlaps=False)
        per_epoch = self.loader.per_epoch
        super().__init__("detection", self.model, optimizer, gradients, config, per_epoch, splits.device)

    def run(self, work: Work) -> None:
        """All steps, from the state that `work` has, and then the statistics to measure with."""
        super().run(work)
        self._measure_statistics(work)

    def batches(self, first_step: int, end_step: int) -> Generator[Scenes, None, None]:
        """See the base class."""
        return self.loader.batches(first_step, end_step)

    def loss(self, batch: Scenes, step: int) -> Tensor:
        """This rank's part of the loss of a global batch."""
        device = self._splits.device
        torch.manual_seed(((self._config.seed * 1_000_003 + step) * 65_537 + distributed.rank()) % 2**63)  # dropout
        self.model.set_keys(step, batch.samples)
        scenes = batch.to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            losses = self.model(as_input(scenes, self._splits.normalise), scenes.sizes, scenes.targets)
        total: Tensor = sum(losses.values())
        return total

    @torch.no_grad()
    def _measure_statistics(self, work: Work) -> None:
        """Let batch norm have the mean statistics of some batches of the finished detector ("precise BN")."""
        norms = [module for module in self.model.modules() if isinstance(module, _BatchNorm)]
        steps, num = self._config.steps, self._config.precise_batches
        if not norms or not num:
            return
        with closing(self.batches(steps, steps + num)) as batches:
            for number, scenes in enumerate(batches):
                for norm in norms:
                    norm.momentum = 1 / (number + 1)  # the mean of all so far
                self.loss(scenes, steps + number)
                self._splits.heard()
                work.leave_if_asked(steps, self.state)
