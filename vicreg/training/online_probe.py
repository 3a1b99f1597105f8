"""Looks at the representation while it learns: the online head and nearest neighbours, every few epochs.

What it looks at stays on the device where it fits: the training images of an array that lies there anyway, all others
from the first measurement on. The encoder computes as in training, in half precision on a GPU.
"""

from __future__ import annotations

import dataclasses
from contextlib import nullcontext

import torch

from vicreg.config import Precision, PretrainConfig
from vicreg.evals import knn
from vicreg.evals.features import Splits, open_splits
from vicreg.evals.framed_images import HeldImages
from vicreg.training.learner import Learner


class OnlineProbe:
    """Measures on the validation beton at the end of every `config.online.every_epochs`-th epoch; 0 is never."""

    def __init__(self, config: PretrainConfig, device: torch.device, workers: int, steps_per_epoch: int) -> None:
        self._config = config.online
        self._every_steps = config.online.every_epochs * steps_per_epoch
        self._splits: Splits | None = None
        if self._every_steps:
            splits = open_splits(config.data, device, workers)
            splits.require_multi_label(False, "an online head")
            asked = config.train.precision
            precision: Precision = "float32" if asked == "float64" else asked
            self._splits = dataclasses.replace(splits, precision=precision, held=HeldImages())

    @property
    def num_classes(self) -> int:
        """Classes that an online head tells apart; 0 without one."""
        return self._splits.num_classes if self._splits else 0

    def is_due(self, step: int) -> bool:
        """Whether there is something to measure after `step` steps."""
        return self._splits is not None and step % self._every_steps == 0

    def measure_if_due(self, step: int, learner: Learner) -> dict[str, float]:
        """Accuracies in percent after `step` steps, or nothing; all ranks call it together."""
        if self._splits is None or not self.is_due(step):
            return {}
        assert learner.online is not None
        splits = dataclasses.replace(self._splits)  # one that keeps no features of earlier weights
        encoder = learner.encoder
        # What is compiled for training would be compiled anew for eval mode and each other batch.
        is_compiled = learner.config.train.compile
        with torch.compiler.set_stance("force_eager") if is_compiled else nullcontext():
            val = splits.features(encoder, "val")
            measured = {"online_top1": learner.online.top1(val.values, val.own_labels)}
            if self._config.neighbours:
                neighbours = knn.Config(neighbours=(self._config.neighbours,))
                measured["knn_top1"] = knn.evaluate(encoder, splits, neighbours).metrics[
                    f"top1_{self._config.neighbours}_neighbours"
                ]
        learner.method.train()
        return measured
