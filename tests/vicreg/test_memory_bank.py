"""The memory bank: whom it names as others, what an entry becomes, and when; beside loops in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from vicreg.losses.contrastive import queue_loss
from vicreg.memory_bank import MemoryBank
from vicreg.ranks import distributed

SAMPLES = torch.tensor([7, 2, 11, 3])


def _bank() -> MemoryBank:
    torch.manual_seed(5)
    return MemoryBank(12, 4, 0.5).double()


def test_others_are_all_images_outside_the_batch_alike() -> None:
    bank = _bank()
    drawn = bank.others(SAMPLES, 8000, seed=3)
    found = (drawn[:, None] == bank.entries).all(2)
    counts = found.sum(0).tolist()
    assert found.sum() == 8000
    for sample, count in enumerate(counts):
        assert count == 0 if sample in SAMPLES else 850 < count < 1150
    assert torch.equal(bank.others(SAMPLES.flip(0), 8000, seed=3), drawn)
    assert not torch.equal(bank.others(SAMPLES, 8000, seed=4), drawn)


def test_a_batch_that_is_all_there_is_is_refused() -> None:
    with pytest.raises(ValueError, match="global_batch is 12, allowed: below the number of samples, 12"):
        _bank().others(torch.arange(12), 3, seed=0)


def test_an_entry_follows_its_image_and_no_other_does() -> None:
    bank = _bank()
    before = bank.entries.numpy().copy()
    new = functional.normalize(torch.randn(4, 4, dtype=torch.float64))
    bank.follow(SAMPLES, new, torch.tensor(False))
    np.testing.assert_array_equal(bank.entries.numpy(), before)
    bank.follow(SAMPLES, new, torch.tensor(True))
    for row, sample in enumerate(SAMPLES.tolist()):
        moved = 0.5 * before[sample] + 0.5 * new[row].numpy()
        before[sample] = moved / np.sqrt((moved**2).sum())
    np.testing.assert_allclose(bank.entries.numpy(), before, rtol=1e-12)


def test_the_loss_equals_a_slow_program() -> None:
    """Softmax over the own entry and all others, and its gradient."""
    bank, temperature = _bank(), 0.2
    z = torch.randn(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1), requires_grad=True)
    others = bank.others(SAMPLES, 6, seed=3)
    loss = queue_loss(z, bank.own(SAMPLES), others, temperature)["loss"]
    loss.backward()
    expected, gradient = 0.0, np.zeros((4, 4))
    for row, sample in enumerate(SAMPLES.tolist()):
        raw = z[row].detach().numpy()
        unit = raw / np.linalg.norm(raw)
        entries = np.concatenate([bank.entries.numpy()[[sample]], others.numpy()])
        weights = np.exp(entries @ unit / temperature)
        expected -= np.log(weights[0] / weights.sum()) / 4
        of_unit = (weights @ entries / weights.sum() - entries[0]) / (4 * temperature)
        gradient[row] = (of_unit - unit * (unit @ of_unit)) / np.linalg.norm(raw)
    assert loss.item() == pytest.approx(expected, rel=1e-12)
    assert z.grad is not None
    np.testing.assert_allclose(z.grad.numpy(), gradient, rtol=1e-9, atol=1e-14)


def on_rank() -> tuple[float, Tensor, Tensor]:
    """Others and entries, of a global batch of which this rank has its part."""
    bank = _bank()
    share = len(SAMPLES) // distributed.world_size()
    own = slice(distributed.rank() * share, (distributed.rank() + 1) * share)
    others = bank.others(SAMPLES[own], 6, seed=3)
    new = functional.normalize(torch.arange(16.0, dtype=torch.float64).cos().view(4, 4))
    bank.follow(SAMPLES[own], new[own], torch.tensor(True))
    return float(bank.entries.sum()), others, bank.entries
