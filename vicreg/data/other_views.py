"""Views that are no images: what a loader hands on of them, and what a reader of one kind must do.

A reader belongs to one kind of branch (`branch_kinds.py`) and one field of the beton; `captions.py` is the example. It
fills its views in the loader's threads, beside the decoding of images; `ready` is what is left for the device.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vicreg.branch_kinds import Kind
from vicreg.views.captions import PADDING

Task = Callable[[], None]
"""Part of a batch's work, for any thread."""


@dataclass(frozen=True)
class OtherView:
    """A view that is no image, as the loader's threads make it; `ready` is its last step."""

    kind: Kind
    values: Tensor
    """(B, ...); of text int64 (B, L), numbers of words and behind the last one PADDING (views/captions.py)."""
    plan: Tensor
    """float32 (B, P): drawn parameters of what is still to be done on the device; of text P is 0."""

    def to(self, device: torch.device, non_blocking: bool = True) -> OtherView:
        """The same view on `device`; text is cut to its longest row before it leaves the CPU."""
        values = self.values
        if self.kind == "text" and values.device.type == "cpu":
            values = values[:, : max(1, int((values != PADDING).sum(1).max()))]
        to = partial(Tensor.to, device=device, non_blocking=non_blocking)
        return OtherView(self.kind, to(values), to(self.plan))


class OtherReader(Protocol):
    """What makes the views of one kind that are no images, from a field of the beton."""

    def view(self, epoch: int, samples: NDArray[np.int64]) -> tuple[OtherView, list[Task]]:
        """A view of these samples (B,), and the tasks, for any thread, that fill its values.

        A function of (seed, epoch, sample, number of the view) alone. A task raises BadSample, naming the sample.
        """
        ...


def ready(view: OtherView) -> Tensor:
    """What the branch of this kind takes, on the view's device: of text the words as they are."""
    return view.values
