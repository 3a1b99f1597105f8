"""The digits: a split that never changes, and attributes that are right."""

from __future__ import annotations

import numpy as np
import pytest

from dataprep.sources import digits
from dataprep.writing.raw_source import Source, SourceError


def names(source: Source) -> list[str]:
    return [source.relative_path(sample) for sample in range(len(source))]


def test_digits_split_is_fixed_and_disjoint() -> None:
    train, val = digits.open_split("train"), digits.open_split("val")
    assert (len(train), len(val)) == (1437, 360)
    assert not set(names(train)) & set(names(val))
    assert names(val)[:4] == ["0/0000", "3/0003", "9/0009", "9/0019"]
    assert val.classes == tuple("0123456789")
    image = val.content(0)
    assert isinstance(image, np.ndarray)
    assert image.shape == (8, 8, 3)
    assert image.max() <= 255
    from sklearn.datasets import load_digits

    data = load_digits()
    np.testing.assert_array_equal(image[..., 2], np.rint(data.images[0] * 255 / 16))
    assert val.labels.tolist()[:4] == [0, 3, 9, 9]
    with pytest.raises(SourceError, match="'test', allowed: train, val"):
        digits.open_split("test")


def test_attributes_are_those_of_the_digit() -> None:
    for split in ("train", "val"):
        plain, source = digits.open_split(split), digits.open_split(split, multi_label=True)
        assert names(source) == names(plain)
        assert source.classes == ("at least five", "closed loop", "even", "prime", "straight lines only")
        assert source.labels.dtype == np.int8
        assert source.labels.shape == (len(plain), 5)
        for vector, digit in zip(source.labels.tolist(), plain.labels.tolist(), strict=True):
            expected = (digit >= 5, digit in (0, 6, 8, 9), digit % 2 == 0, digit in (2, 3, 5, 7), digit in (1, 4, 7))
            for value, true in zip(vector, expected, strict=True):
                assert value in (0, 1 if true else -1)
        assert (source.labels == 0).any(axis=0).all()
        assert 0.01 < (source.labels == 0).mean() < 0.03


def test_what_is_difficult_never_changes() -> None:
    vectors = digits.open_split("val", multi_label=True).labels
    assert np.argwhere(vectors == 0)[:3].tolist() == [[3, 3], [10, 1], [29, 0]]
