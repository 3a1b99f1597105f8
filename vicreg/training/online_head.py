"""A linear classifier that learns beside the encoder, from features that no gradient goes back from.

It says while pretraining runs what its representation is worth, and changes nothing in it. Source: solo-learn, whose
published CIFAR accuracies are those of such a head: cross-entropy over both views, no weight decay, the schedule and
the kind of optimizer that the encoder has.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from vicreg.optim.optimizers import load_state
from vicreg.ranks import distributed
from vicreg.ranks.gradient_sum import GradientSum


class OnlineHead:
    """The classifier with its optimizer; the same weights on every rank."""

    def __init__(self, head: nn.Linear, optimizer: torch.optim.Optimizer) -> None:
        self.head, self.optimizer = head, optimizer
        self._gradients = GradientSum(head)

    def learn(self, features: Tensor, labels: Tensor, rate: float) -> None:
        """Make the gradient for this rank's features (views * n, D) of images with `labels` (n,); a step is to follow.

        Rows are the first view's, then the second's.
        """
        self._gradients.clear()
        logits = self.head(features.detach().to(self.head.weight.dtype))
        targets = labels.repeat(len(features) // len(labels))
        (nn.functional.cross_entropy(logits, targets) / distributed.world_size()).backward()
        self._gradients.finish()
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    @torch.no_grad()
    def top1(self, features: Tensor, labels: Tensor) -> float:
        """Accuracy in percent on this rank's features (n, D) of all ranks', the same on every rank."""
        right = (self.head(features.to(self.head.weight)).argmax(1).cpu() == labels).sum()
        counts = distributed.sum_over_ranks(torch.stack([right, torch.tensor(len(labels))]))
        return 100 * float(counts[0] / counts[1])

    def state(self) -> dict[str, Any]:
        """Weights and momenta."""
        return {"head": self.head.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load(self, state: dict[str, Any]) -> None:
        """Go back to a state."""
        self.head.load_state_dict(state["head"])
        load_state(self.optimizer, state["optimizer"])
