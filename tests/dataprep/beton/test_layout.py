"""The descriptor of a label vector is FFCV's own, byte for byte."""

from __future__ import annotations

import numpy as np
import pytest

from dataprep.beton.layout import DESCRIPTOR, vector_arguments, vector_length


def ffcv_arguments(dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    from ffcv.fields import NDArrayField

    return np.ascontiguousarray(NDArrayField(np.dtype(dtype), shape).to_binary()[0])


@pytest.mark.ffcv
@pytest.mark.parametrize("length", [1, 5, 20, 1000])
def test_arguments_are_those_of_ffcvs_field(length: int) -> None:
    from ffcv.fields import NDArrayField

    ours = vector_arguments(length)
    np.testing.assert_array_equal(ours, ffcv_arguments("int8", (length,)))
    field = NDArrayField.from_binary(ours)
    assert (field.dtype, field.shape) == (np.dtype("int8"), (length,))
    assert vector_length(ours) == length


@pytest.mark.ffcv
@pytest.mark.parametrize(("dtype", "shape"), [("float32", (20,)), ("uint8", (20,)), ("int8", (4, 5))])
def test_other_arrays_are_no_label_vectors(dtype: str, shape: tuple[int, ...]) -> None:
    assert vector_length(ffcv_arguments(dtype, shape)) is None


def test_damaged_arguments_are_no_label_vectors() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        arguments = rng.integers(0, 256, DESCRIPTOR["arguments"].shape, dtype=np.uint8)
        assert vector_length(arguments) is None
    assert vector_length(np.zeros(DESCRIPTOR["arguments"].shape, np.uint8)) is None
