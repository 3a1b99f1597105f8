"""Stored images read by blocks, ahead of decoding: for data larger than memory, or behind a network.

Stands apart from `data.py`, which decodes what was read here, and from `order.py`, which sees to it that the images of
a block are asked for within some batches of each other. The file is not mapped: its blocks are read by requests of
their own size, into memory that the next blocks use when the last batch that needs it is gone. So what is held is known
(a block for each sample of a rank's batch, and those of the batches under way), and a slow disk costs waiting, never a
crash.
"""

from __future__ import annotations

import dataclasses
import threading
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from dataprep.beton.contract import Beton
from vicreg.data.batches import Drawn, Sampling
from vicreg.data.buffers import Buffers

BATCHES_AHEAD = 4
"""Batches whose blocks are asked for before the decoding threads get to see them."""
READING_THREADS = 4
"""Requests under way at a time: a network file system answers several as fast as one."""

Part = dict[int, NDArray[np.uint8]]
"""What was read together: stored bytes by sample."""


def read_ahead(
    beton: Beton, drawn: Iterator[Drawn], sampling: Sampling, places: NDArray[np.int64], buffers: Buffers
) -> Generator[Drawn, None, None]:
    """The batches of `drawn` with `Drawn.stored`, which waits until a block has been read.

    places: of all of these batches, as `Sampling.places` has them (num, batch_size); down a column, samples of one
    block stand together and are read together. buffers: memory for them. Closing the generator ends its threads.
    `Drawn.stored` raises BetonError when the file cannot be read or has been cut.
    """
    samples, blocks = sampling.samples[places], places // sampling.block_size
    begins = np.ones_like(blocks, dtype=bool)
    begins[1:] = blocks[1:] != blocks[:-1]
    current: list[Future[Part]] = [Future()] * samples.shape[1]
    waiting: deque[Drawn] = deque()
    one_at_a_time = threading.Lock()

    def memory(size: int) -> NDArray[np.uint8]:
        with one_at_a_time:
            return buffers.take((size,)).numpy()

    executor = ThreadPoolExecutor(READING_THREADS, thread_name_prefix="vicreg-read")
    left_early = True
    try:
        for row, batch in enumerate(drawn):
            for column in np.flatnonzero(begins[row]).tolist():
                later = np.flatnonzero(begins[row + 1 :, column])
                end = row + 1 + int(later[0]) if later.size else len(samples)
                current[column] = executor.submit(beton.read_images, samples[row:end, column], memory)
            waiting.append(_with_bytes(batch, dict(zip(samples[row].tolist(), current, strict=True))))
            if len(waiting) > BATCHES_AHEAD:
                yield waiting.popleft()
        while waiting:
            yield waiting.popleft()
        left_early = False
    finally:
        executor.shutdown(wait=True, cancel_futures=left_early)  # else what was handed out waits for its blocks


def _with_bytes(drawn: Drawn, parts: dict[int, Future[Part]]) -> Drawn:
    """The batch, which from now on keeps the parts of the file that hold its samples."""
    return dataclasses.replace(drawn, stored=lambda sample: parts[sample].result()[sample])
