"""Heads trained together, beside each trained alone by torch's own layers and optimizer."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.ranks import run_ranks
from vicreg.evals.heads import HeadSettings, LinearHeads

CPU = torch.device("cpu")
SETTINGS = [HeadSettings(0.1, 0.0), HeadSettings(0.5, 0.01), HeadSettings(0.02, 0.3), HeadSettings(1.0, 0.001)]
NUM_FEATURES, NUM_CLASSES, BATCH = 12, 7, 32


def _batches(num: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    drawn = [torch.randn(BATCH, NUM_FEATURES, generator=generator) * 3 + 1 for _ in range(num)]
    return [(features, torch.randint(NUM_CLASSES, (BATCH,), generator=generator)) for features in drawn]


def _train(nesterov: bool, batch_norm: bool, steps: range = range(10), before: dict | None = None) -> LinearHeads:
    heads = LinearHeads(
        SETTINGS,
        NUM_FEATURES,
        NUM_CLASSES,
        momentum=0.9,
        nesterov=nesterov,
        batch_norm=batch_norm,
        seed=3,
        device=CPU,
    )
    if before:
        heads.load(before)
    for step, (features, labels) in enumerate(_batches(10)):
        if step in steps:
            heads.step(features, labels, rate=1.0 if step < 5 else 0.1)
    return heads


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("batch_norm", [False, True])
def test_every_head_is_what_it_would_be_alone(nesterov: bool, batch_norm: bool) -> None:
    heads = _train(nesterov, batch_norm)
    queries, truth = _batches(12)[-1]
    correct = heads.count_correct(queries, truth, 5)
    for number, settings in enumerate(SETTINGS):
        linear = nn.Linear(NUM_FEATURES, NUM_CLASSES)
        nn.init.normal_(linear.weight, std=0.01, generator=torch.Generator().manual_seed(3))
        nn.init.zeros_(linear.bias)
        norm = nn.BatchNorm1d(NUM_FEATURES) if batch_norm else nn.Identity()
        groups = [
            {"params": list(linear.parameters()), "weight_decay": settings.weight_decay},
            {"params": list(norm.parameters()), "weight_decay": 0.0},
        ]
        optimizer = torch.optim.SGD([g for g in groups if g["params"]], settings.lr, momentum=0.9, nesterov=nesterov)
        for step, (features, labels) in enumerate(_batches(10)):
            for group in optimizer.param_groups:
                group["lr"] = settings.lr * (1.0 if step < 5 else 0.1)
            optimizer.zero_grad()
            F.cross_entropy(linear(norm(features)), labels).backward()
            optimizer.step()
        torch.testing.assert_close(heads.parameters["weight"][number], linear.weight, rtol=2e-4, atol=2e-5)
        torch.testing.assert_close(heads.parameters["bias"][number], linear.bias, rtol=2e-4, atol=2e-5)
        norm.eval()
        ranked = linear(norm(queries)).argsort(dim=1, descending=True) == truth[:, None]
        assert correct[number].tolist() == [int(ranked[:, :1].sum()), int(ranked[:, :5].sum())]
        if isinstance(norm, nn.BatchNorm1d):
            torch.testing.assert_close(heads.running_mean, norm.running_mean)
            torch.testing.assert_close(heads.running_var, norm.running_var)


def _state_of_a_rank() -> dict[str, torch.Tensor]:
    return _train(True, True).state()


@pytest.mark.parametrize("num_ranks", [2, 3, 5])
def test_heads_are_the_same_on_any_number_of_ranks(num_ranks: int, tmp_path: Path) -> None:
    alone = _train(True, True).state()
    assert alone["parameter.weight"].shape == (len(SETTINGS), NUM_CLASSES, NUM_FEATURES)
    shared = run_ranks(_state_of_a_rank, num_ranks, tmp_path)
    for name, tensor in alone.items():
        torch.testing.assert_close(shared[name], tensor, rtol=1e-4, atol=1e-6, msg=name)


def test_going_on_from_a_state_gives_the_same_bits() -> None:
    whole = _train(True, True).state()
    parts = _train(True, True, range(4, 10), _train(True, True, range(4)).state()).state()
    assert all(torch.equal(parts[name], whole[name]) for name in whole)


def test_a_head_that_diverges_leaves_the_others_alone() -> None:
    heads = LinearHeads(
        [HeadSettings(0.1, 0.0), HeadSettings(1e38, 0.0)],
        NUM_FEATURES,
        NUM_CLASSES,
        momentum=0.9,
        nesterov=False,
        batch_norm=False,
        seed=3,
        device=CPU,
    )
    losses = torch.stack([heads.step(features, labels, 1.0) for features, labels in _batches(10)])
    assert not losses[-1, 1].isfinite()
    expected = _train(False, False).parameters["weight"][0]
    heads = _train(False, False)
    torch.testing.assert_close(heads.parameters["weight"][0], expected)
    assert losses[:, 0].isfinite().all()
