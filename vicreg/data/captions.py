"""Captions from a beton: one of each sample's, drawn for the epoch, and the words that the training captions have."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from dataprep.beton.captions import CAPTIONS, BadCaptions, caption_ranges, decode_caption, decode_captions
from dataprep.beton.contract import BadSample, Beton
from vicreg.data.other_views import OtherView, Task
from vicreg.views.captions import MAX_WORDS, drawn_captions, write_words

TASK_CAPTIONS = 64
"""Captions that a thread takes at a time: a millisecond."""


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
        return decode_captions(_stored(beton, sample))
    except BadCaptions as error:
        raise BadSample(beton.path, sample, str(error)) from error


def _stored(beton: Beton, sample: int) -> bytes:
    return beton.field_bytes(CAPTIONS, sample).tobytes()


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
                sample, found = -1, []
                try:
                    for sample in part.tolist():
                        content = _stored(self._beton, sample)
                        found.append((sample, content, caption_ranges(content)))
                    counts = np.array([len(places) for _, _, places in found])
                    drawn = drawn_captions(self._seed, epoch, part, self._number, counts).tolist()
                    for number, chosen in enumerate(drawn):
                        sample, content, places = found[number]
                        write_words(rows[begin + number], decode_caption(content, places[chosen]))
                except BadCaptions as error:
                    raise BadSample(self._beton.path, sample, str(error)) from error

            return run

        tasks = [task(begin) for begin in range(0, len(samples), TASK_CAPTIONS)]
        return OtherView("text", torch.from_numpy(rows), torch.empty(len(samples), 0)), tasks
