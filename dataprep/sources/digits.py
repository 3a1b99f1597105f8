"""scikit-learn's handwritten digits, 8 x 8 pixels: a data set that needs no download, for the demo and the tests."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dataprep.beton.keyed_choice import chosen, permutation
from dataprep.writing.raw_source import Source, require_split

_NUM_TRAIN = 1437
_SPLIT_SEED = 0
_ATTRIBUTES = {  # of the digit that an image shows
    "at least five": {5, 6, 7, 8, 9},
    "closed loop": {0, 6, 8, 9},
    "even": {0, 2, 4, 6, 8},
    "prime": {2, 3, 5, 7},
    "straight lines only": {1, 4, 7},
}
_DIFFICULT_SHARE = 0.02
_DIFFICULT_SEED = 1


def open_split(split: str, multi_label: bool = False) -> Source:
    """1,437 digits to learn from (`train`) or 360 to measure on (`val`), split with a fixed seed.

    multi_label: label vectors of five attributes of the digit instead of its class, of which a fixed 2 % are 0
    (difficult). They say nothing of VOC07 or of any published number: they are there to try what label vectors pass
    through.
    """
    from sklearn.datasets import load_digits

    require_split(split, ("train", "val"))
    data = load_digits()
    order = permutation(len(data.target), _SPLIT_SEED)
    own = np.sort(order[:_NUM_TRAIN] if split == "train" else order[_NUM_TRAIN:])
    gray = np.rint(data.images[own] * (255 / 16)).astype(np.uint8)
    pixels = np.repeat(gray[..., None], 3, axis=3)
    return Source(
        name="digits, multi-label" if multi_label else "digits",
        root="scikit-learn",
        split=split,
        classes=tuple(_ATTRIBUTES) if multi_label else tuple("0123456789"),
        labels=_attributes(data.target)[own] if multi_label else data.target[own].astype(np.int64),
        relative_path=lambda sample: f"{data.target[own[sample]]}/{own[sample]:04d}",
        content=lambda sample: pixels[sample],
        default_write_mode="raw",
    )


def _attributes(digits: NDArray[np.int64]) -> NDArray[np.int8]:
    """For each digit and attribute 1 or -1, and 0 for a drawn few."""
    has = np.stack([np.isin(digits, list(having)) for having in _ATTRIBUTES.values()], axis=1)
    vectors = np.where(has, 1, -1).astype(np.int8)
    vectors[chosen(vectors.size, _DIFFICULT_SHARE, _DIFFICULT_SEED).reshape(vectors.shape)] = 0
    return vectors
