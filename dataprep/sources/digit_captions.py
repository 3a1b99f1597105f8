"""Numbers of three handwritten digits, side by side, and how they are spelled out: captions without a download.

Each image has a caption that is no other's: of a split at most 1,000 images are made, one of each number.
"""

from __future__ import annotations

import numpy as np

from dataprep.beton.keyed_choice import keys, permutation
from dataprep.writing.raw_captions import usable_captions
from dataprep.writing.raw_source import Source, require_split

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
NUM_DIGITS, SIDE = 3, 8
NUMBERS = {"train": 800, "val": 200}
"""How many of the thousand numbers each split has: others than the other split."""
_NUM_TRAIN_DIGITS = 1437
_NUMBERS_SEED, _DIGITS_SEED = 0, 1


def open_split(split: str) -> Source:
    """The numbers of a split, written with digits that the other split does not have."""
    from sklearn.datasets import load_digits

    require_split(split, tuple(NUMBERS))
    data = load_digits()
    order, numbers = permutation(len(data.target), 0), permutation(10**NUM_DIGITS, _NUMBERS_SEED)
    own = order[:_NUM_TRAIN_DIGITS] if split == "train" else order[_NUM_TRAIN_DIGITS:]
    numbers = numbers[: NUMBERS["train"]] if split == "train" else numbers[NUMBERS["train"] :]
    digits = numbers[:, None] // 10 ** np.arange(NUM_DIGITS)[::-1] % 10
    draws = keys(digits.size, _DIGITS_SEED).reshape(digits.shape)
    of_class = [own[data.target[own] == digit] for digit in range(10)]
    gray = np.rint(data.images * (255 / 16)).astype(np.uint8)
    pixels = np.zeros((len(digits), NUM_DIGITS * SIDE, NUM_DIGITS * SIDE, 3), np.uint8)
    for place in range(NUM_DIGITS):
        for row, digit in enumerate(digits[:, place]):
            drawn = of_class[digit][int(draws[row, place] % np.uint64(len(of_class[digit])))]
            pixels[row, SIDE : 2 * SIDE, place * SIDE : (place + 1) * SIDE] = gray[drawn][..., None]
    spelled = [" ".join(NAMES[digit] for digit in row) for row in digits]
    return Source(
        name="digits, captions",
        root="scikit-learn",
        split=split,
        classes=(),
        labels=np.zeros(len(digits), np.int64),
        relative_path=lambda sample: spelled[sample].replace(" ", "-"),
        content=lambda sample: pixels[sample],
        default_write_mode="raw",
        captions=lambda sample: usable_captions([spelled[sample], f"The number {spelled[sample]}."]),
    )
