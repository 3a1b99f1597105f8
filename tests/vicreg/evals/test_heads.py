"""Heads trained together, beside each trained alone by torch's own layers and optimizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.ranks import run_ranks
from vicreg.evals import heads
from vicreg.evals.heads import LinearHeads
from vicreg.evals.settings.linear import HeadSettings

CPU = torch.device("cpu")
SETTINGS = [HeadSettings(0.1, 0.0), HeadSettings(0.5, 0.01), HeadSettings(0.02, 0.3), HeadSettings(1.0, 0.001)]
NUM_FEATURES, NUM_CLASSES, BATCH = 12, 7, 32


def _batches(num: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    drawn = [torch.randn(BATCH, NUM_FEATURES, generator=generator) * 3 + 1 for _ in range(num)]
    return [(features, torch.randint(NUM_CLASSES, (BATCH,), generator=generator)) for features in drawn]


def _heads(settings: list[HeadSettings], nesterov: bool, batch_norm: bool) -> LinearHeads:
    return LinearHeads(
        settings,
        NUM_FEATURES,
        NUM_CLASSES,
        momentum=0.9,
        nesterov=nesterov,
        batch_norm=batch_norm,
        seed=3,
        device=CPU,
    )


def _train(
    nesterov: bool, batch_norm: bool, steps: range = range(10), before: dict[str, Any] | None = None
) -> LinearHeads:
    trained = _heads(SETTINGS, nesterov, batch_norm)
    if before:
        trained.load(before)
    for step, (features, labels) in enumerate(_batches(10)):
        if step in steps:
            trained.step(features, labels, rate=1.0 if step < 5 else 0.1)
    return trained


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("batch_norm", [False, True])
def test_every_head_is_what_it_would_be_alone(nesterov: bool, batch_norm: bool) -> None:
    together = _train(nesterov, batch_norm)
    queries, truth = _batches(12)[-1]
    correct = together.count_correct(queries, truth, 5)
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
        torch.testing.assert_close(together.parameters["weight"][number], linear.weight, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(together.parameters["bias"][number], linear.bias, rtol=1e-5, atol=1e-6)
        norm.eval()
        ranked = linear(norm(queries)).argsort(dim=1, descending=True) == truth[:, None]
        assert correct[number].tolist() == [int(ranked[:, :1].sum()), int(ranked[:, :5].sum())]
        if isinstance(norm, nn.BatchNorm1d):
            torch.testing.assert_close(together.running_mean, norm.running_mean)
            torch.testing.assert_close(together.running_var, norm.running_var)


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


@pytest.mark.parametrize("batch_norm", [False, True])
def test_a_head_that_diverges_leaves_the_others_alone(batch_norm: bool) -> None:
    calm = HeadSettings(0.1, 0.01)
    both, alone = (_heads(settings, False, batch_norm) for settings in ([HeadSettings(1e38, 0.0), calm], [calm]))
    for features, labels in _batches(10):
        losses, expected = both.step(features, labels, 1.0), alone.step(features, labels, 1.0)
        torch.testing.assert_close(losses[1], expected[0])
    assert not losses[0].isfinite()
    for name, tensor in alone.parameters.items():
        torch.testing.assert_close(both.parameters[name][1], tensor[0], msg=name)
    queries, truth = _batches(11)[-1]
    assert torch.equal(both.count_correct(queries, truth, 5)[1], alone.count_correct(queries, truth, 5)[0])


def test_validation_in_blocks_counts_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    trained = _train(False, True)
    queries, truth = _batches(11)[-1]
    whole = trained.count_correct(queries, truth, 5)
    monkeypatch.setattr(heads, "MAX_SCORES", 7 * len(SETTINGS) * NUM_CLASSES)
    assert torch.equal(trained.count_correct(queries, truth, 5), whole)
    assert bool((whole[:, 1] > whole[:, 0]).all())
