"""What keeps a long run from being lost in silence: non-finite steps are skipped and counted, collapse is told."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from torch import Tensor

log = logging.getLogger(__name__)

COLLAPSED_STD = 0.05  # mean standard deviation of the embedding under which a branch counts as collapsed (target: 1)


class TrainingDiverged(RuntimeError):
    """Too many steps in a row had a non-finite gradient."""


class StepGuard:
    """Decides which steps are taken. Gradients are the same on every rank, and so is every decision."""

    def __init__(self, max_skipped: int) -> None:
        self.max_skipped = max_skipped
        self.skipped_in_a_row = 0
        self.skipped = 0
        self._said_collapse = False

    def accept(self, step: int, gradients: Sequence[Tensor], terms: dict[str, Tensor]) -> bool:
        """Whether to take the step: all gradients are finite.

        Raises TrainingDiverged after `max_skipped` refused steps in a row.
        """
        norms = torch.stack(torch._foreach_norm(list(gradients)))
        finite = bool(torch.isfinite(norms).all())
        self.skipped_in_a_row = 0 if finite else self.skipped_in_a_row + 1
        self.skipped += not finite
        if not finite:
            values = ", ".join(f"{name} {value.item():.4g}" for name, value in terms.items())
            log.warning("step %d has a non-finite gradient and is skipped (%s)", step, values)
        if self.skipped_in_a_row >= self.max_skipped:
            raise TrainingDiverged(
                f"{self.skipped_in_a_row} steps in a row had a non-finite gradient, allowed: "
                f"{self.max_skipped - 1}; the last checkpoint is from before, lower base_lr or use precision float32"
            )
        return finite

    def watch_collapse(self, step: int, embedding_std: float) -> None:
        """Warn once when the embeddings have lost their spread."""
        if embedding_std < COLLAPSED_STD and not self._said_collapse and step > 0:
            self._said_collapse = True
            log.warning("the embeddings have collapsed: mean standard deviation %.3g at step %d", embedding_std, step)
