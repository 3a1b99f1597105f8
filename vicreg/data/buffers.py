"""Memory of batches, used again and again."""

from __future__ import annotations

import math
import weakref
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

NUMPY_TYPES = {torch.uint8: np.uint8, torch.int16: np.int16, torch.float32: np.float32}


class Buffers:
    """Memory for batches, used again as soon as nobody holds the batch that it was handed out for.

    New memory costs a page fault for every 4 KiB, which is dearer than filling it.
    """

    def __init__(self, pinned: bool) -> None:
        self._pinned = pinned
        self._free: list[NDArray[np.uint8]] = []

    def take(self, shape: Sequence[int], dtype: torch.dtype = torch.uint8) -> Tensor:
        """Memory for values of this shape, of undefined content; pinned for copies to a GPU if so wished."""
        if self._pinned:
            return torch.empty(tuple(shape), dtype=dtype, pin_memory=True)  # torch itself uses these again
        size = math.prod(shape) * dtype.itemsize
        buffer = self._smallest_of(size)
        window = buffer[:size].view(NUMPY_TYPES[dtype]).reshape(shape)
        # The tensor's storage holds `window`; both end together, when the last view of the tensor does.
        weakref.finalize(window, self._free.append, buffer).atexit = False
        return torch.from_numpy(window)

    def take_all(self, shapes: Sequence[Sequence[int]], dtype: torch.dtype = torch.uint8) -> list[Tensor]:
        """The same of several shapes, in one piece of memory."""
        sizes = [math.prod(shape) for shape in shapes]
        parts = self.take((sum(sizes),), dtype).split(sizes)
        return [part.view(tuple(shape)) for part, shape in zip(parts, shapes, strict=True)]

    def _smallest_of(self, size: int) -> NDArray[np.uint8]:
        """The smallest free buffer of at least `size` bytes; a new one in the place of the smallest where none is."""
        self._free.sort(key=len)
        place = next((place for place, buffer in enumerate(self._free) if len(buffer) >= size), None)
        if place is not None:
            return self._free.pop(place)
        if self._free:
            del self._free[0]
        return np.empty(size, np.uint8)
