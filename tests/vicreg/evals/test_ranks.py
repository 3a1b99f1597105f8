"""Features have the same bits, and every evaluation gives the same counts, on one, two and three ranks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.ranks import run_ranks
from vicreg.config import DataConfig, ModelConfig
from vicreg.evals import few_labels, knn, linear
from vicreg.evals.features import Splits
from vicreg.exchange.encoder_file import untrained_encoder
from vicreg.ranks import distributed

HEADS: dict[str, dict[str, Any]] = {
    "one": {},
    "grid": {"grid_lrs": (0.1, 1.0, 1e38), "grid_weight_decays": (1e-3,)},
    "vissl": {"grid_lrs": (0.1,), "batch_norm": True, "nesterov": True, "milestones": (1,)},
}
SAMPLES = np.array([359, 3, 3, 200, 0, 127, 128], dtype=np.int64)


def measure(data: DataConfig) -> tuple[Tensor, Tensor, dict[str, float]]:
    """All features, some rows, and all evaluations of a small encoder on the digits; all ranks must see the same."""
    encoder = untrained_encoder(ModelConfig("resnet10-narrow"), seed=0)
    splits = Splits(data, num_classes=10, device=torch.device("cpu"), workers=1, batch=32)
    val = splits.features(encoder, "val")
    assert len(val.values) in range(360 // distributed.world_size() - 32, 360 // distributed.world_size() + 33)
    metrics = knn.evaluate(encoder, splits, knn.Config(votes=("weighted", "unweighted"))).metrics
    metrics |= few_labels.evaluate(encoder, splits, few_labels.Config(label_counts=(10, 50), draws=4)).metrics
    for name, settings in HEADS.items():
        config = linear.Config(epochs=2, batch=96, lr=0.3, hflip_p=0.0, **settings)
        found = linear.evaluate(encoder, splits, config)
        metrics |= {f"{name}_{metric}": value for metric, value in found.metrics.items()}
        for number, curve in enumerate(found.details["heads"]):
            values = [-1.0 if value is None else value for value in curve["top1"] + curve["top5"]]
            metrics |= {f"{name}_{number}_{place}": value for place, value in enumerate(values)}
    own = torch.tensor([list(metrics.values())], dtype=torch.float64)
    everybody = distributed.gather_rows(own)
    assert torch.equal(everybody, own.expand_as(everybody))
    return val.all_rows(splits.device), val.rows(SAMPLES, splits.device), metrics


@pytest.fixture(scope="module")
def small_digits(digits_folder: Path) -> DataConfig:
    """The digits at 16 px."""
    data = DataConfig(train=str(digits_folder / "train.beton"), val=str(digits_folder / "val.beton"))
    return replace(data, image_size=16, eval_resize=16)


@pytest.fixture(scope="module")
def alone(small_digits: DataConfig) -> tuple[Tensor, Tensor, dict[str, float]]:
    """What one process measures."""
    torch.set_num_threads(1)
    return measure(small_digits)


@pytest.mark.parametrize("num_ranks", [2, 3])
def test_nothing_depends_on_the_ranks(
    num_ranks: int, small_digits: DataConfig, alone: tuple[Tensor, Tensor, dict[str, float]], tmp_path: Path
) -> None:
    values, rows, metrics = alone
    assert len(metrics) == 8 + (4 + 1 * 4) + (6 + 8 * 4) + (6 + 2 * 4)  # of all, then of each head two epochs
    assert torch.equal(rows, values[torch.from_numpy(SAMPLES)])
    values_there, rows_there, metrics_there = run_ranks(measure, num_ranks, tmp_path, small_digits)
    assert torch.equal(values_there, values)
    assert torch.equal(rows_there, rows)
    assert metrics_there == metrics
