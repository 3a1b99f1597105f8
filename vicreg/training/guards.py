"""What keeps a long run from being lost in silence: non-finite steps are skipped and counted, collapse is told."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from vicreg.method_file import Term

log = logging.getLogger(__name__)

LARGEST_VALUE = 1e4
"""Of a view: far beyond every normalised pixel."""


class TrainingDiverged(RuntimeError):
    """Too many steps in a row had a non-finite gradient."""

    position: int | None = None
    """Of the last of them among the batches of all epochs; the same on all ranks. None where no rank but one knows."""


class StepGuard:
    """Decides which steps are taken. Gradients are the same on every rank, and so is every decision.

    It decides where the gradients are: a GPU's answer is waited for only when `check` asks for it.
    """

    def __init__(self, max_skipped: int, device: torch.device) -> None:
        self.max_skipped = max_skipped
        self._said_skipped = 0
        self._said_collapse = False
        self._counts = torch.zeros(3, dtype=torch.int64, device=device)  # skipped, now in a row, at most in a row
        self._bad_samples = torch.zeros(0, dtype=torch.int64, device=device)
        self._suspects = torch.zeros(0, dtype=torch.bool, device=device)  # of them, those with odd views
        self.gradient_norm = torch.zeros((), device=device)
        """Of all gradients of the last step together, left out or not."""

    @property
    def skipped(self) -> int:
        """Steps left out so far."""
        return int(self._counts[0])

    @property
    def in_a_row(self) -> int:
        """Steps left out since one was taken."""
        return int(self._counts[1])

    def go_on_from(self, skipped: int, in_a_row: int) -> None:
        """Counts of the run so far."""
        self._counts.copy_(torch.tensor([skipped, in_a_row, in_a_row]))
        self._said_skipped = skipped

    def accept(
        self, gradients: Sequence[Tensor], statistics: Sequence[Tensor], samples: Tensor, views: Sequence[Tensor] = ()
    ) -> Tensor:
        """Whether to take the step, bool () on the gradients' device: all gradients and running statistics are finite.

        A huge value may leave an infinite variance behind although all gradients are finite. `samples` (B,) are those
        of this rank, to be named if the step is left out: of those whose views (each (B, ...)) tell, these alone.
        """
        norms = torch.stack(torch._foreach_norm(list(gradients)))
        self.gradient_norm = torch.linalg.vector_norm(norms)
        finite = torch.isfinite(norms).all()
        for values in statistics:
            finite = finite & torch.isfinite(values).all()
        total, in_a_row, most = self._counts.unbind()
        total += ~finite
        in_a_row.add_(1).mul_(~finite)
        torch.maximum(most, in_a_row, out=most)
        if finite.is_cuda or not finite:  # a GPU is not asked
            self._remember(finite, samples, views)
        return finite

    def _remember(self, finite: Tensor, samples: Tensor, views: Sequence[Tensor]) -> None:
        """Keep the samples of a step that is left out, and which of them have views that no photo has."""
        suspects = torch.zeros_like(samples, dtype=torch.bool)
        for view in (view for view in views if view.is_floating_point()):  # words are never odd
            largest = torch.linalg.vector_norm(view, math.inf, tuple(range(1, view.ndim)))
            suspects |= ~(largest < LARGEST_VALUE)
        if self._bad_samples.shape != samples.shape:
            self._bad_samples, self._suspects = torch.zeros_like(samples), torch.zeros_like(suspects)
        self._bad_samples.copy_(torch.where(finite, self._bad_samples, samples))
        self._suspects.copy_(torch.where(finite, self._suspects, suspects))

    def check(self, step: int, terms: Mapping[str, Tensor]) -> None:
        """Say which steps up to `step` were left out since the last time, and this rank's samples of the last of them.

        Raises TrainingDiverged where `max_skipped` steps in a row were.
        """
        skipped, _, most = self._counts.tolist()
        if skipped > self._said_skipped:
            number, values = skipped - self._said_skipped, ", ".join(f"{n} {v.item():.4g}" for n, v in terms.items())
            which = f"step {step}" if number == 1 else f"{number} steps up to {step}"
            log.warning(
                "%s left out: a gradient or a statistic of batch norm is not finite, and nothing of it stays (%s); %s",
                which,
                values,
                self._said_samples("" if number == 1 else " of the last"),
            )
            self._said_skipped = skipped
        if most >= self.max_skipped:
            raise TrainingDiverged(
                f"{most} steps in a row had a non-finite gradient, allowed: {self.max_skipped - 1}; the last "
                "checkpoint is from before, look at the samples that the log names, lower base_lr or use precision "
                "float32"
            )

    def _said_samples(self, of_what: str) -> str:
        """The samples of this rank to look at, and how they are known."""
        bad = self._bad_samples[self._suspects] if self._suspects.any() else self._bad_samples
        names = " ".join(map(str, bad.tolist()))
        if self._suspects.any():
            return f"samples{of_what} of this rank with views that are not finite, or beyond all pixels: {names}"
        return f"no view{of_what} of this rank tells which sample it is; all of them: {names}"

    def watch_collapse(self, step: int, values: Mapping[str, float], terms: Mapping[str, Term]) -> None:
        """Warn once when a term says that the embeddings have collapsed."""
        for name, term in terms.items():
            has_limit = name in values and term.collapsed_below > 0  # a similarity may well be below 0
            if has_limit and values[name] < term.collapsed_below and not self._said_collapse and step > 0:
                self._said_collapse = True
                log.warning("the embeddings have collapsed: %s %.3g at step %d", name, values[name], step)
