"""Every evaluation gives the same counts on one, two and three ranks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.ranks import run_ranks
from vicreg import distributed
from vicreg.config import DataConfig, ModelConfig
from vicreg.evals import few_labels, knn, linear
from vicreg.export import untrained_encoder
from vicreg.features import Splits


def measure(data: DataConfig) -> dict[str, float]:
    """All evaluations of a small encoder on the digits, as this rank sees them; all ranks must see the same."""
    encoder = untrained_encoder(ModelConfig("resnet10-narrow"), seed=0)
    splits = Splits(data, num_classes=10, device=torch.device("cpu"), workers=1, batch=32)
    metrics = knn.evaluate(encoder, splits, knn.Config(votes=("weighted", "unweighted")))
    metrics |= few_labels.evaluate(encoder, splits, few_labels.Config(label_counts=(10, 50), draws=4))
    metrics |= linear.evaluate(encoder, splits, linear.Config(epochs=2, batch=96, lr=0.3, hflip_p=0.0))
    values = torch.tensor([list(metrics.values())], dtype=torch.float64)
    everybody = distributed.gather_rows(values)
    assert torch.equal(everybody, values.expand_as(everybody))
    return metrics


@pytest.fixture(scope="module")
def small_digits(digits_folder: Path) -> DataConfig:
    """The digits at 16 px."""
    data = DataConfig(train=str(digits_folder / "train.beton"), val=str(digits_folder / "val.beton"))
    return replace(data, image_size=16, eval_resize=16)


@pytest.fixture(scope="module")
def alone(small_digits: DataConfig) -> dict[str, float]:
    """What one process measures."""
    torch.set_num_threads(1)
    return measure(small_digits)


@pytest.mark.parametrize("num_ranks", [2, 3])
def test_counts_do_not_depend_on_the_ranks(
    num_ranks: int, small_digits: DataConfig, alone: dict[str, float], tmp_path: Path
) -> None:
    assert len(alone) == 12
    assert run_ranks(measure, num_ranks, tmp_path, small_digits) == alone
