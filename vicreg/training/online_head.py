"""A linear classifier that learns beside the encoder, from features that no gradient goes back from.

It says while pretraining runs what its representation is worth, and changes nothing in it. As in solo-learn, whose
published CIFAR accuracies are those of such a head, it learns by cross-entropy over both views without weight decay.
Unlike there, it has an optimizer of its own on features of mean 0 and deviation 1, so that it does not depend on the
encoder's: under LARS a run of a few hundred steps left it at chance.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor, nn

from vicreg.config import OptimizerConfig
from vicreg.method import usual_groups
from vicreg.optim.optimizers import build_optimizer, load_state, set_rate
from vicreg.optim.schedule import learning_rate
from vicreg.ranks import distributed
from vicreg.ranks.gradient_sum import GradientSum
from vicreg.ranks.sync_batch_norm import synchronise
from vicreg.training.running_statistics import RunningStatistics

log = logging.getLogger(__name__)

NORM_MOMENTUM = 0.3
"""Twenty steps then know the features' mean to 0.1 %; a run may have no more between two measurements."""


class OnlineHead:
    """The classifier with its optimizer; the same weights on every rank."""

    def __init__(self, head: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.head, self.optimizer = head, optimizer
        self._gradients = GradientSum(head)
        self._statistics = RunningStatistics(head)
        self._weight = next(head.parameters())

    @classmethod
    def build(cls, num_features: int, num_classes: int, like: Tensor) -> OnlineHead:
        """A head for features (n, D) of any scale, on the device and with the type of `like`."""
        norm = nn.BatchNorm1d(num_features, affine=False, momentum=NORM_MOMENTUM)
        head = nn.Sequential(norm, nn.Linear(num_features, num_classes))
        synchronise(head.to(like.device, like.dtype), like.device)
        settings = OptimizerConfig(name="adamw", weight_decay=0.0)
        return cls(head, build_optimizer(settings, usual_groups(head)))

    def set_rate(self, rate: float) -> None:
        """The learning rate of the steps to follow."""
        for group in self.optimizer.param_groups:
            set_rate(group, rate)

    def learn(self, features: Tensor, labels: Tensor) -> None:
        """Make the gradient for this rank's features (views * n, D) of images with `labels` (n,); a step is to follow.

        Rows are the first view's, then the second's.
        """
        self._gradients.clear()
        self._statistics.remember()
        logits = self.head(features.detach().to(self._weight.dtype))
        targets = labels.repeat(len(features) // len(labels))
        (nn.functional.cross_entropy(logits, targets) / distributed.world_size()).backward()
        self._gradients.finish()

    def keep_if(self, taken: Tensor) -> None:
        """Forget what `learn` has seen of the features unless the step is `taken`, bool () on their device."""
        self._statistics.keep_if(taken)

    @torch.no_grad()
    def top1(self, features: Tensor, labels: Tensor) -> float:
        """Accuracy in percent on this rank's features (n, D) of all ranks', the same on every rank."""
        self.head.eval()
        right = (self.head(features.to(self._weight)).argmax(1).cpu() == labels).sum()
        self.head.train()
        counts = distributed.sum_over_ranks(torch.stack([right, torch.tensor(len(labels))]))
        return 100 * float(counts[0] / counts[1])

    def state(self) -> dict[str, Any]:
        """Weights, statistics and momenta."""
        return {"head": self.head.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load(self, state: dict[str, Any]) -> None:
        """Go back to a state; an earlier version's, of another head, is not taken up."""
        if state["head"].keys() != self.head.state_dict().keys():
            log.warning("the online head of the checkpoint is that of an earlier version: it begins anew")
            return
        self.head.load_state_dict(state["head"])
        load_state(self.optimizer, state["optimizer"])


def head_rate(peak: float, step: int, num_steps: int) -> float:
    """The head's learning rate: half a cosine from the first step to the last, whatever the encoder's."""
    return learning_rate(step, num_steps, 0, peak, 0.0)
