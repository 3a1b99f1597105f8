"""The linear protocol where its answer is known, and against the same steps written out."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from vicreg.config import DataConfig
from vicreg.data.loaders import open_views
from vicreg.evals.features import Pixels, open_splits
from vicreg.evals.linear import Config, evaluate

CPU = torch.device("cpu")


def test_separable_images_reach_100_percent(separable: DataConfig) -> None:
    metrics = evaluate(Pixels(8), open_splits(separable, CPU, 1), Config(epochs=3, batch=32)).metrics
    assert metrics == {"top1": 100.0, "top5": 100.0, "top1_last_epoch": 100.0, "top5_last_epoch": 100.0}


def test_random_labels_are_at_chance(meaningless: DataConfig) -> None:
    metrics = evaluate(Pixels(8), open_splits(meaningless, CPU, 1), Config(epochs=2, batch=32)).metrics
    assert abs(metrics["top1_last_epoch"] - 100 / 6) < 100 * 3.3 * math.sqrt(1 / 6 * 5 / 6 / 210)  # 99.9 %
    assert abs(metrics["top5_last_epoch"] - 500 / 6) < 100 * 3.3 * math.sqrt(1 / 6 * 5 / 6 / 210)
    assert metrics["top1"] >= metrics["top1_last_epoch"]


def test_equals_the_official_steps_written_out(meaningless: DataConfig) -> None:
    config = Config(epochs=4, batch=32, lr=0.05, weight_decay=0.1, seed=3)
    splits, encoder = open_splits(meaningless, CPU, 1), Pixels(8)
    metrics = evaluate(encoder, splits, config).metrics

    head = nn.Linear(192, 6)
    nn.init.normal_(head.weight, 0.0, 0.01, generator=torch.Generator().manual_seed(3))
    nn.init.zeros_(head.bias)
    optimizer = torch.optim.SGD(head.parameters(), 0.05, momentum=0.9, weight_decay=0.1)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.epochs)
    val = splits.features(encoder, "val")
    best = [0.0, 0.0]
    loader = open_views(
        meaningless,
        splits.beton("train"),
        (config.view(),),
        seed=3,
        global_batch=32,
        rank=0,
        world_size=1,
        device=CPU,
        workers=1,
        interpolation="bilinear",
    )
    for epoch in range(config.epochs):
        for batch in loader.batches(epoch):
            optimizer.zero_grad()
            F.cross_entropy(head(splits.normalise(batch.views[0]).flatten(1)), batch.labels).backward()
            optimizer.step()
        scheduler.step()
        ranked = head(val.values).argsort(dim=1, descending=True)
        last = [100 * int((ranked[:, :top] == val.labels[:, None]).sum()) / 210 for top in (1, 5)]
        best = [max(pair) for pair in zip(best, last, strict=True)]
    assert metrics == {"top1": best[0], "top5": best[1], "top1_last_epoch": last[0], "top5_last_epoch": last[1]}


def test_the_encoder_stays_as_it_was(separable: DataConfig) -> None:
    class Normed(Pixels):
        def __init__(self) -> None:
            super().__init__(8)
            self.norm = nn.BatchNorm2d(3)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return super().forward(self.norm(images))

    encoder = Normed().train()
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    evaluate(encoder, open_splits(separable, CPU, 1), Config(epochs=1, batch=32))
    assert all(torch.equal(tensor, before[name]) for name, tensor in encoder.state_dict().items())
    assert all(parameter.grad is None for parameter in encoder.parameters())


def test_a_diverging_head_is_said(separable: DataConfig) -> None:
    with pytest.raises(ValueError, match=r"lr is 1e\+38, allowed: a smaller rate: the head diverged in epoch 1"):
        evaluate(Pixels(8), open_splits(separable, CPU, 1), Config(epochs=1, batch=32, lr=1e38))


def test_images_that_do_not_fill_a_batch_are_refused(separable: DataConfig) -> None:
    with pytest.raises(ValueError, match="global_batch is 256, allowed: 1 to the number of samples, 128"):
        evaluate(Pixels(8), open_splits(separable, CPU, 1), Config(epochs=1))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "epochs is 0, allowed: 1 or more"),
        ({"batch": 0}, "batch is 0, allowed: 1 or more"),
        ({"lr": 0.0}, "lr is 0.0, allowed: above 0"),
        ({"momentum": 1.0}, "momentum is 1.0, allowed: from 0 to below 1"),
        ({"weight_decay": -1.0}, "weight_decay is -1.0, allowed: 0 or more"),
        ({"crop_scale": (0.0, 1.0)}, "crop_scale is"),
        ({"hflip_p": 2.0}, "hflip_p is 2.0, allowed: a probability"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Config(**settings)
