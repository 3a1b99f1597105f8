"""Captions from a beton: one of each sample's, drawn for the epoch, and the words that the training captions have."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from dataprep.beton.captions import CAPTIONS, BadCaptions, decode_captions
from dataprep.beton.contract import BadSample, Beton
from vicreg.data.other_views import OtherView, Task
from vicreg.views.captions import MAX_WORDS, drawn_captions, write_words

TASK_CAPTIONS = 64
"""Captions that a thread takes at a time: two milliseconds."""


def require_captions(beton: Beton) -> None:
    """ValueError where a beton has no captions."""
    if CAPTIONS not in beton.more:
        raise ValueError(
            f"{beton.path} has no captions, which a branch of text (--model.encoder-b) learns from; "
            "dataprep/write_ffcv.py captions writes such data"
        )


def captions_of(beton: Beton, sample: int) -> list[str]:
    """All captions of a sample; BadSample where they cannot be read."""
    try:
        return decode_captions(beton.field_bytes(CAPTIONS, sample))
    except BadCaptions as error:
        raise BadSample(beton.path, sample, str(error)) from error


class CaptionReader:
    """One caption of each sample, drawn for the epoch by its key; see `OtherReader`."""

    def __init__(self, beton: Beton, seed: int, number: int) -> None:
        """number: of the view among all of a sample. ValueError where there are no captions."""
        require_captions(beton)
        self._beton, self._seed, self._number = beton, seed, number

    def view(self, epoch: int, samples: NDArray[np.int64]) -> tuple[OtherView, list[Task]]:
        """See `OtherReader`; words (B, MAX_WORDS)."""
        rows = np.empty((len(samples), MAX_WORDS), np.int64)

        def task(begin: int) -> Task:
            part = samples[begin : begin + TASK_CAPTIONS]

            def run() -> None:
                found = [captions_of(self._beton, int(sample)) for sample in part]
                counts = np.array([len(captions) for captions in found])
                drawn = drawn_captions(self._seed, epoch, part, self._number, counts)
                for row, captions, chosen in zip(rows[begin:], found, drawn, strict=False):
                    write_words(row, captions[chosen])

            return run

        tasks = [task(begin) for begin in range(0, len(samples), TASK_CAPTIONS)]
        return OtherView("text", torch.from_numpy(rows), torch.empty(len(samples), 0)), tasks
