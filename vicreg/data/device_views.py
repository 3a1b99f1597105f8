"""Decoded images to views on the GPU: copied while the GPU still computes the step before, then cropped there."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from vicreg.data.batches import Batch, Drawn, crop_on_device
from vicreg.data.planes import Planes
from vicreg.views.resample import Interpolation

T = TypeVar("T")


def views_on_device(
    decoded: Iterable[tuple[Drawn, Planes]],
    device: torch.device,
    interpolation: Interpolation,
    labels: NDArray[np.int64],
) -> Generator[Batch, None, None]:
    """The batches with their views on `device`; `labels` are those of the whole beton."""

    def copy(item: tuple[Drawn, Planes]) -> tuple[Drawn, Planes]:
        return item[0], item[1].to(device)

    def use(item: tuple[Drawn, Planes], stream: torch.cuda.Stream) -> None:
        item[1].record_stream(stream)

    for drawn, planes in copied_ahead(decoded, copy, use, device):
        yield drawn.batch(crop_on_device(planes.rgb(), drawn, interpolation), labels).to(device)


def copied_ahead(
    items: Iterable[T], copy: Callable[[T], T], use: Callable[[T, torch.cuda.Stream], None], device: torch.device
) -> Generator[T, None, None]:
    """copy(item) of each item, begun one item early on a stream of its own, so that the copy runs beside the computing.

    use: tells torch's allocator that the item's memory is used on a stream (`Tensor.record_stream`). On a CPU the items
    are handed on one by one.
    """
    if device.type != "cuda":
        yield from map(copy, items)
        return
    copying = torch.cuda.Stream(device)
    ahead: tuple[T, torch.cuda.Event] | None = None
    for item in items:
        with torch.cuda.stream(copying):
            following = copy(item), copying.record_event()
        if ahead is not None:
            yield _arrived(*ahead, use)
        ahead = following
    if ahead is not None:
        yield _arrived(*ahead, use)


def _arrived(item: T, event: torch.cuda.Event, use: Callable[[T, torch.cuda.Stream], None]) -> T:
    """The item, which whatever is computed from now on waits for; the host does not."""
    stream = torch.cuda.current_stream()
    stream.wait_event(event)
    use(item, stream)
    return item
