"""Captions as views: their words as numbers, and which caption of a sample an epoch has, a function of the key.

A word's number is a hash of its letters, so that whoever reads captions needs no vocabulary: the text encoder has it.
"""

from __future__ import annotations

import functools
import hashlib

import numpy as np
from numpy.typing import NDArray

from dataprep.beton.captions import words
from vicreg.views import keyed_random

PADDING = 0
"""Behind the last word of a row; no word has this number."""
MAX_WORDS = 64
"""Of a caption; further ones are not read. (COCO's longest has 57.)"""
_CAPTION_DRAW = 0


@functools.lru_cache(maxsize=1 << 17)
def word_number(word: str) -> int:
    """63 bits of a word, never `PADDING`."""
    digest = hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return (int.from_bytes(digest, "little") >> 1) or 1


def write_words(row: NDArray[np.int64], caption: str) -> None:
    """Fill a row (L,) with the numbers of a caption's words, then with `PADDING`."""
    numbers = [word_number(word) for word in words(caption)[: len(row)]]
    row[: len(numbers)] = numbers
    row[len(numbers) :] = PADDING


def drawn_captions(
    seed: int, epoch: int, samples: NDArray[np.int64], view: int, counts: NDArray[np.int64]
) -> NDArray[np.int64]:
    """The number of the caption of each sample (B,) in an epoch, of its `counts` (B,)."""
    bits = keyed_random.bits(seed, epoch, samples, view, _CAPTION_DRAW)
    return (bits % counts.astype(np.uint64)).astype(np.int64)
