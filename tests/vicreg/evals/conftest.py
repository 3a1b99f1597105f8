"""Small betons with known answers, written once."""

from __future__ import annotations

import pytest

from tests.vicreg.evals.small_splits import coloured_noise
from vicreg.config import DataConfig

NUM_TRAIN, NUM_VAL, NUM_CLASSES = 128, 210, 6


@pytest.fixture(scope="session")
def separable(tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    """Six classes that colour tells apart."""
    return coloured_noise(tmp_path_factory.mktemp("separable"), NUM_TRAIN, NUM_VAL, NUM_CLASSES, signal=1.0)


@pytest.fixture(scope="session")
def meaningless(tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    """Six classes that nothing tells apart."""
    return coloured_noise(tmp_path_factory.mktemp("meaningless"), NUM_TRAIN, NUM_VAL, NUM_CLASSES, signal=0.0)
