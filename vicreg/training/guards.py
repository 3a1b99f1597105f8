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
    """Decides which steps are taken. Gradients are the same on every rank, and so is every decision.

    It decides where the gradients are: a GPU's answer is waited for only when `check` asks for it.
    """

    def __init__(self, max_skipped: int, device: torch.device) -> None:
        self.max_skipped = max_skipped
        self._said_skipped = 0
        self._said_collapse = False
        self._counts = torch.zeros(3, dtype=torch.int64, device=device)  # skipped, now in a row, at most in a row

    @property
    def skipped(self) -> int:
        """Steps left out so far."""
        return int(self._counts[0])

    @skipped.setter
    def skipped(self, number: int) -> None:
        self._counts[0] = self._said_skipped = number

    def accept(self, gradients: Sequence[Tensor]) -> Tensor:
        """Whether to take the step, bool () on the gradients' device: all gradients are finite."""
        finite = torch.isfinite(torch.stack(torch._foreach_norm(list(gradients)))).all()
        total, in_a_row, most = self._counts.unbind()
        total += ~finite
        in_a_row.add_(1).mul_(~finite)
        torch.maximum(most, in_a_row, out=most)
        return finite

    def check(self, step: int, terms: dict[str, Tensor]) -> None:
        """Say which steps up to `step` were left out since the last time.

        Raises TrainingDiverged where `max_skipped` steps in a row were.
        """
        skipped, _, most = self._counts.tolist()
        if skipped > self._said_skipped:
            number, values = skipped - self._said_skipped, ", ".join(f"{n} {v.item():.4g}" for n, v in terms.items())
            which = f"step {step}" if number == 1 else f"{number} steps up to {step}"
            log.warning("%s left out for a non-finite gradient (%s)", which, values)
            self._said_skipped = skipped
        if most >= self.max_skipped:
            raise TrainingDiverged(
                f"{most} steps in a row had a non-finite gradient, allowed: {self.max_skipped - 1}; the last "
                "checkpoint is from before, lower base_lr or use precision float32"
            )

    def watch_collapse(self, step: int, embedding_std: float) -> None:
        """Warn once when the embeddings have lost their spread."""
        if embedding_std < COLLAPSED_STD and not self._said_collapse and step > 0:
            self._said_collapse = True
            log.warning("the embeddings have collapsed: mean standard deviation %.3g at step %d", embedding_std, step)
